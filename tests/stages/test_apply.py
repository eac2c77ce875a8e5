"""Applying a decision copies the survivors byte for byte and accounts for everything else."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import tempfile
import tracemalloc
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecif import manifest
from ecif.errors import BadTarError, ConflictError, InputError, MissingFileError, StorageError
from ecif.ledger import LEDGER
from ecif.shards.tar import read_members
from ecif.stages.apply import apply_shard
from ecif.stages.verify import verify_shard
from tests.shards.tars import Entry, Tar, pack, sample, tarfile_members, tars, webdataset_samples
from tests.stages.failing import Failing
from tests.stages.outputs import DECISION_KEY, SCORE_KEY, Output, parquet, policy, scores_of, shelve

BAD = [Entry("bad.txt", b"no image here")]
FOUR = pack([*sample("a"), *sample("b", image=b"x" * 600), *BAD, *sample("c"), Entry("__meta__", b"m"), *sample("d")])


def run(output: Output, drop: str = "0.5", unscored: str = "keep") -> manifest.Manifest:
    decision = output.decide(policy(drop, unscored))
    return apply_shard(output.shard, decision, output.layout, output.storage)


def keys(data: bytes) -> list[str]:
    return [found["__key__"] for found in webdataset_samples(data)]


def files(output: Output) -> dict[str, bytes]:
    """Everything in the output, by relative path."""
    root = Path(output.layout.root)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(
    tars(),
    st.randoms(use_true_random=False),
    st.sampled_from(["0", "0.3", "0.5", "1"]),
    st.sampled_from(["keep", "drop", "quarantine"]),
)
def test_any_tar_any_decision(data: Tar, rng: random.Random, drop: str, unscored: str) -> None:
    """The survivors are what tarfile and webdataset read before, and verify agrees."""
    n = len(webdataset_samples(data))
    values = [rng.choice([-1.5, -0.5, 0.0, 2.0]) for _ in range(n)]
    statuses = [rng.choice(["ok", "ok", "no_caption"]) for _ in range(n)]
    with tempfile.TemporaryDirectory() as folder:
        table = scores_of(data, "00000", values, statuses)
        output = shelve(Path(folder), {"00000": data}, scores={"00000": table})
        decision = output.decide(policy(drop, unscored))
        done = apply_shard(output.shard, decision, output.layout, output.storage)
        assert verify_shard(output.shard, output.layout, output.storage, done, decision).violations == ()

        ledger = pl.read_parquet(io.BytesIO(output.bytes_of(output.layout.ledger("00000"))))
        gone, aside = set(ledger["key"]), set(ledger.filter(pl.col("action") == "quarantine")["key"])
        ok = statuses.count("ok")
        assert ledger.filter(pl.col("reason") == "policy").height == int(float(drop) * ok) == decision.n_dropped
        if done.kept:
            result = output.bytes_of(output.layout.tar("00000"))
            removed = [found for found in webdataset_samples(data) if found["__key__"] in gone]
            names = {f"{found['__key__']}.{extension}" for found in removed for extension in found}
            assert tarfile_members(result) == [m for m in tarfile_members(data) if m[0] not in names]
            assert webdataset_samples(result) == [s for s in webdataset_samples(data) if s["__key__"] not in gone]
            if not gone:
                assert result == data
        else:
            assert not output.storage.exists(output.layout.tar("00000"))
        if aside:
            result = output.bytes_of(output.layout.quarantine("00000"))
            assert webdataset_samples(result) == [s for s in webdataset_samples(data) if s["__key__"] in aside]


def test_what_is_written(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": FOUR})
    done = run(output)
    layout = output.layout
    assert (done.samples, done.kept, done.dropped, done.quarantined, done.unscored) == (5, 3, 2, 0, 1)
    assert done.statuses == {"no_image": 1, "ok": 4}
    assert keys(output.bytes_of(layout.tar("00000"))) == ["bad", "c", "d"]
    assert set(done.files) == {"tar", "parquet", "stats", "ledger", "scores"}
    for kind, url in (("tar", layout.tar("00000")), ("parquet", layout.parquet("00000")),
                      ("stats", layout.stats("00000")), ("ledger", layout.ledger("00000")),
                      ("scores", layout.scores(SCORE_KEY, "00000"))):  # fmt: skip
        data = output.bytes_of(url)
        assert (done.files[kind].size, done.files[kind].sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert manifest.read(layout, output.storage, "00000") == done
    assert (done.input.url, done.input.size) == (output.shard.url, len(FOUR))

    table = pl.read_parquet(io.BytesIO(output.bytes_of(layout.parquet("00000"))))
    assert table["key"].to_list() == ["bad", "c", "d", "lost"]
    stats = json.loads(output.bytes_of(layout.stats("00000")))
    assert (stats["count"], stats["successes"], stats["status_dict"]["success"], stats["duration"]) == (4, 3, 3, 1.5)


def test_the_ledger(tmp_path: Path) -> None:
    table = scores_of(FOUR, "00000", [3.0, -2.0, 0.0, -2.0, 1.0])
    output = shelve(tmp_path, {"00000": FOUR}, scores={"00000": table})
    run(output, "0.5", "drop")
    ledger = pl.read_parquet(io.BytesIO(output.bytes_of(output.layout.ledger("00000"))))
    assert dict(ledger.schema) == LEDGER
    uids = dict(zip(table["key"], table["uid"], strict=True))
    ranks = {"b": 1, "c": 2} if uids["b"] < uids["c"] else {"b": 2, "c": 1}
    rows = ledger.select("key", "index", "reason", "action", "detector", "score", "rank").rows()
    assert rows == [
        ("b", 1, "policy", "drop", "influence", -2.0, ranks["b"]),
        ("bad", 2, "unscored:no_image", "drop", "influence", None, None),
        ("c", 3, "policy", "drop", "influence", -2.0, ranks["c"]),
    ]
    assert ledger["uid"].to_list() == [uids[key] for key in ("b", "bad", "c")]
    raw = {m.name: m.raw for m in read_members(io.BytesIO(FOUR), "x")}
    assert ledger["sha256"][0] == hashlib.sha256(raw["b.jpg"] + raw["b.txt"]).hexdigest()


def test_nothing_dropped_is_the_same_bytes_and_an_empty_ledger(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": FOUR})
    run(output, "0")
    source = Path(output.shard.url)
    assert output.bytes_of(output.layout.tar("00000")) == FOUR
    assert output.bytes_of(output.layout.parquet("00000")) == source.with_suffix(".parquet").read_bytes()
    assert output.bytes_of(output.layout.stats("00000")) == source.with_name("00000_stats.json").read_bytes()
    ledger = pl.read_parquet(io.BytesIO(output.bytes_of(output.layout.ledger("00000"))))
    assert ledger.equals(pl.DataFrame(schema=LEDGER))
    assert ledger.schema == pl.Schema(LEDGER)


def test_no_survivors_leave_a_manifest_and_a_ledger(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": FOUR})
    done = run(output, "1", "drop")
    assert (done.kept, done.dropped, set(done.files)) == (0, 5, {"ledger", "scores"})
    assert not list(Path(output.layout.root).glob("*.*"))


def test_an_empty_tar(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": pack([]), "00001": FOUR})
    decision = output.decide(policy())
    done = apply_shard(output.inventory.shards[0], decision, output.layout, output.storage)
    assert (done.samples, done.statuses, set(done.files)) == (0, {}, {"ledger", "scores"})


def test_quarantine(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": FOUR})
    done = run(output, "0.25", "quarantine")
    assert (done.kept, done.dropped, done.quarantined) == (3, 1, 1)
    assert keys(output.bytes_of(output.layout.tar("00000"))) == ["b", "c", "d"]
    assert output.bytes_of(output.layout.quarantine("00000")) == pack(BAD)


def test_sidecars_that_the_input_lacks_are_not_invented(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": FOUR}, sidecars=False)
    assert set(run(output).files) == {"tar", "ledger", "scores"}


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": FOUR})
    first = run(output)
    before = {path: path.stat().st_mtime_ns for path in Path(output.layout.root).rglob("*")}
    Path(output.shard.url).unlink()
    assert run(output) == first
    assert {path: path.stat().st_mtime_ns for path in Path(output.layout.root).rglob("*")} == before


def test_another_decision_is_a_conflict(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": FOUR})
    run(output)
    before = files(output)
    other = output.decide(policy("0.25"), "e" * 12)
    with pytest.raises(ConflictError, match=f"decision {DECISION_KEY}, not {other.key}"):
        apply_shard(output.shard, other, output.layout, output.storage)
    assert {name: data for name, data in files(output).items() if "e" * 12 not in name} == before


def test_killed_anywhere_and_run_again_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole = shelve(tmp_path / "whole", {"00000": FOUR})
    run(whole, "0.5", "quarantine")
    written = 6
    for left in range(written):
        output = shelve(tmp_path / str(left), {"00000": FOUR})
        decision = output.decide(policy("0.5", "quarantine"))
        with pytest.raises(StorageError, match="killed"):
            apply_shard(output.shard, decision, output.layout, Failing(left))
        assert manifest.read(output.layout, output.storage, "00000") is None
        apply_shard(output.shard, decision, output.layout, output.storage)
        # Inventory and manifest tell when and where the input was.
        ours = {
            name: data
            for name, data in files(output).items()
            if "/inventory/" not in name and not name.endswith("/00000.json")
        }
        assert ours == {name: data for name, data in files(whole).items() if name in ours}
        assert len(ours) == len(files(whole)) - 2
        assert manifest.read(output.layout, output.storage, "00000") is not None


def rescored(tmp_path: Path, table: pl.DataFrame) -> Output:
    return shelve(tmp_path, {"00000": FOUR}, scores={"00000": table})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (slice(0, 4), "more samples than the 4 of its score table"),
        (slice(0, 0), "more samples than the 0 of its score table"),
    ],
)
def test_scores_with_too_few_rows_are_refused(tmp_path: Path, rows: slice, message: str) -> None:
    output = rescored(tmp_path, scores_of(FOUR, "00000")[rows])
    with pytest.raises(InputError, match=message):
        run(output)
    assert not output.storage.exists(output.layout.tar("00000"))


def test_scores_with_too_many_rows_are_refused(tmp_path: Path) -> None:
    longer = pack([*[Entry(m.name, bytes(m.data)) for m in read_members(io.BytesIO(FOUR), "x")], *sample("e")])
    with pytest.raises(InputError, match="holds 5 samples, its score table 6"):
        run(rescored(tmp_path, scores_of(longer, "00000")))


def test_scores_of_another_tar_are_refused(tmp_path: Path) -> None:
    other = pack([*sample("a"), *sample("z"), *BAD, *sample("c"), *sample("d")])
    with pytest.raises(InputError, match="sample 1 is 'b' here and 'z' in its score table"):
        run(rescored(tmp_path, scores_of(other, "00000")))
    with pytest.raises(InputError, match="not the scores of shard 00000"):
        run(rescored(tmp_path / "2", scores_of(FOUR, "00001")))


def test_missing_scores_are_named(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": FOUR})
    decision = output.decide(policy())
    output.storage.delete(output.layout.scores(decision.score_key, "00000"))
    with pytest.raises(MissingFileError, match=r"scores/5+/00000\.parquet"):
        apply_shard(output.shard, decision, output.layout, output.storage)


def test_a_tar_that_changed_since_the_inventory_is_refused(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": FOUR})
    Path(output.shard.url).write_bytes(FOUR + bytes(10_240))
    with pytest.raises(InputError, match="has changed since the inventory"):
        run(output)


def test_a_damaged_tar_leaves_nothing_behind(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": FOUR[:4000]}, sidecars=False, scores={"00000": scores_of(FOUR, "00000")})
    with pytest.raises(BadTarError):
        run(output)
    assert not any("00000" in name and "scores" not in name and "inventory" not in name for name in files(output))


def test_a_sidecar_of_another_tar_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": FOUR})
    table = pl.DataFrame({"key": ["a", "b"], "status": ["success", "success"]})
    Path(output.shard.url).with_suffix(".parquet").write_bytes(parquet(table))
    with pytest.raises(InputError, match="no successful row"):
        run(output)
    assert not list(Path(output.layout.root).glob("*.*"))


def test_names_may_have_directories(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"part-1/00000": FOUR})
    run(output)
    assert (Path(output.layout.root) / "part-1" / "00000.tar").is_file()


def test_two_writers_at_once_do_no_harm(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    output = shelve(tmp_path, {"00000": FOUR})
    decision = output.decide(policy())
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(apply_shard, output.shard, decision, output.layout, output.storage) for _ in range(8)]
    assert len({json.dumps(call.result().to_json(), sort_keys=True) for call in calls}) == 1
    assert verify_shard(output.shard, output.layout, output.storage, calls[0].result(), decision).violations == ()


def test_memory_does_not_grow_with_the_shard(tmp_path: Path) -> None:
    def peak(n: int) -> int:
        data = pack([entry for i in range(n) for entry in sample(f"{i:04d}", image=bytes(1_000_000))])
        output = shelve(tmp_path / str(n), {"00000": data})
        decision = output.decide(policy())
        del data
        tracemalloc.start()
        try:
            apply_shard(output.shard, decision, output.layout, output.storage)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            shutil.rmtree(tmp_path / str(n))

    # A few blocks are filled at first, and how many exist at a time is chance; beyond them nothing grows.
    assert min(peak(80), peak(80)) < max(peak(40), peak(40)) + 1_000_000


@pytest.mark.parametrize(("values", "aside"), [([1, 0, 2], ["a"]), ([0, 1, 2], [])])
def test_two_samples_never_become_one(tmp_path: Path, values: list[int], aside: list[str]) -> None:
    """A repeated key stays as it is; where what stands between the two goes, the second one is set aside."""
    data = pack([*sample("a", "1"), *sample("b", "2"), *sample("a", "3")])
    table = scores_of(data, "00000", [float(value) for value in values])
    output = shelve(tmp_path, {"00000": data}, scores={"00000": table})
    done = run(output, "0.5")
    assert (done.kept, done.dropped, done.quarantined) == (2 - len(aside), 1, len(aside))
    assert len(webdataset_samples(output.bytes_of(output.layout.tar("00000")))) == done.kept
    ledger = pl.read_parquet(io.BytesIO(output.bytes_of(output.layout.ledger("00000"))))
    assert ledger.filter(pl.col("action") == "quarantine")["reason"].to_list() == ["unscored:duplicate_key"] * len(
        aside
    )
    if aside:
        (found,) = webdataset_samples(output.bytes_of(output.layout.quarantine("00000")))
        assert (found["__key__"], found["txt"]) == ("a", b"3")


def test_what_the_policy_drops_can_be_set_aside(tmp_path: Path) -> None:
    data = pack([member for n in range(6) for member in sample(f"{n}", f"caption {n}")])
    output = shelve(tmp_path, {"00000": data})
    decision = output.decide(policy("0.5").model_copy(update={"dropped": "quarantine"}))
    done = apply_shard(output.shard, decision, output.layout, output.storage)
    assert (done.kept, done.dropped, done.quarantined) == (3, 0, 3)
    aside = webdataset_samples(output.bytes_of(output.layout.quarantine("00000")))
    kept = webdataset_samples(output.bytes_of(output.layout.tar("00000")))
    assert aside + kept == webdataset_samples(data)
    assert verify_shard(output.shard, output.layout, output.storage, done, decision).violations == ()
