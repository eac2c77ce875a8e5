"""What went comes back byte for byte, once, beside what stayed."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import polars as pl
import pytest

from ecif import ledger, manifest, restores
from ecif.errors import InputError, MissingFileError, StorageError, UsageError
from ecif.restores import Claim, Restored
from ecif.selection import Decision
from ecif.shards.samples import Sample, group
from ecif.shards.tar import read_members
from ecif.stages.apply import apply_shard
from ecif.stages.restore import Selection, restore_shard, select
from ecif.storage import Storage
from tests.shards.tars import Entry, pack, sample, tarfile_members, webdataset_samples
from tests.stages.failing import Failing
from tests.stages.outputs import Output, scores_of, shelve
from tests.stages.test_parting import decided

BAD = [Entry("bad.txt", b"no image here")]
ONE = pack([Entry("__meta__", b"m"), *sample("a"), *sample("b", image=b"x" * 600), *BAD, *sample("c"), *sample("d")])
TWO = pack([*sample("e"), *BAD, *sample("a"), *sample("f", json=b"{}")])
EVERYTHING = Selection()


def written(folder: Path, drop: str = "0.5", unscored: str = "quarantine", deny: str = "") -> tuple[Output, Decision]:
    output = shelve(folder, {"00000": ONE, "part/00001": TWO})
    decision = decided(output, drop, unscored, deny)
    for shard in output.inventory.shards:
        apply_shard(shard, decision, output.layout, output.storage)
    return output, decision


def restored(
    output: Output, decision: Decision, wanted: Selection = EVERYTHING, storage: Storage | None = None
) -> list[Restored]:
    storage = storage or output.storage
    selected = select(output.layout, storage, wanted, denied=True)
    shards = output.inventory.by_name()
    return [
        restore_shard(shards[name], one, decision, output.layout, storage)
        for one in restores.claim(output.layout, storage, decision.key, selected)
        for name in one.samples
    ]


def hashes(data: bytes) -> dict[str, str]:
    """SHA-256 of the samples by key."""
    items = group(read_members(io.BytesIO(data), "x"))
    return {item.key: item.sha256() for item in items if isinstance(item, Sample)}


def files(output: Output) -> dict[str, bytes]:
    root = Path(output.layout.root)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def keys(output: Output, done: Restored) -> list[str]:
    return [
        found["__key__"] for found in webdataset_samples(output.bytes_of(output.layout.tar(done.name(output.layout))))
    ]


@pytest.mark.parametrize(("drop", "unscored"), [("0.5", "quarantine"), ("1", "drop"), ("0", "quarantine")])
def test_kept_and_restored_are_what_there_was(tmp_path: Path, drop: str, unscored: str) -> None:
    output, decision = written(tmp_path, drop, unscored)
    before = files(output)
    back = {done.shard: done for done in restored(output, decision)}
    for name, data in (("00000", ONE), ("part/00001", TWO)):
        kept = manifest.read(output.layout, output.storage, name)
        assert kept is not None
        together = hashes(output.bytes_of(output.layout.tar(name))) if kept.kept else {}
        again = hashes(output.bytes_of(output.layout.tar(back[name].name(output.layout))))
        assert not set(together) & set(again)
        assert together | again == hashes(data)
        assert back[name].samples == len(again) == kept.dropped + kept.quarantined
    assert {name: data for name, data in files(output).items() if name in before} == before


def test_the_restored_members_are_those_of_the_input_in_its_order(tmp_path: Path) -> None:
    output, decision = written(tmp_path, "1", "drop")
    first, _ = restored(output, decision)
    data = output.bytes_of(output.layout.tar(first.name(output.layout)))
    assert tarfile_members(data) == [member for member in tarfile_members(ONE) if member[0] != "__meta__"]
    assert first.name(output.layout) == f"restored-{first.restore_key}/00000"
    mark = first.files["tar"]
    assert (mark.size, first.source, first.input.size) == (len(data), "input", len(ONE))


def test_sidecars_have_the_rows_of_the_restored_samples_only(tmp_path: Path) -> None:
    output, decision = written(tmp_path)
    first, _ = restored(output, decision)
    name = first.name(output.layout)
    table = pl.read_parquet(io.BytesIO(output.bytes_of(output.layout.parquet(name))))
    assert (table["key"].to_list(), table["status"].unique().to_list()) == (["a", "b", "bad"], ["success"])
    stats = json.loads(output.bytes_of(output.layout.stats(name)))
    assert stats == {
        "count": 3,
        "successes": 3,
        "failed_to_download": 0,
        "duration": 1.5,
        "status_dict": {"success": 3},
    }
    assert set(first.files) == {"tar", "parquet", "stats"}


def test_the_quarantine_serves_when_it_holds_all(tmp_path: Path) -> None:
    output, decision = written(tmp_path)
    for shard in output.inventory.shards:
        Path(shard.url).unlink()
    done = restored(output, decision, Selection(reasons=frozenset({"unscored:no_image"})))
    assert [(one.source, keys(output, one)) for one in done] == [("quarantine", ["bad"])] * 2
    with pytest.raises(MissingFileError, match=r"in/00000\.tar"):
        restored(output, decision, Selection(names=frozenset({("key", "b")})))


def test_samples_of_one_key_that_would_follow_each_other_come_back_apart(tmp_path: Path) -> None:
    data = pack([*BAD, *sample("a"), *BAD, *sample("c"), *BAD])
    output = shelve(tmp_path, {"00000": data}, scores={"00000": scores_of(data, "00000")})
    decision = decided(output, "0", "quarantine")
    apply_shard(output.shard, decision, output.layout, output.storage)
    done = restored(output, decision)
    # In the quarantine they do follow each other, so that it cannot serve.
    assert [(one.source, one.samples) for one in done] == [("input", 1)] * 3
    assert [output.bytes_of(output.layout.tar(one.name(output.layout))) for one in done] == [pack(BAD)] * 3
    assert restored(output, decision) == sorted(done, key=lambda one: one.restore_key)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Selection(names=frozenset({("key", "a")})), {"00000": ["a"]}),
        (
            Selection(names=frozenset({("key", "bad"), ("sample", "00000/b")})),
            {"00000": ["b", "bad"], "part/00001": ["bad"]},
        ),
        (Selection(shards=frozenset({"part/00001"})), {"part/00001": ["e", "bad"]}),
        (Selection(reasons=frozenset({"policy"})), {"00000": ["a", "b"], "part/00001": ["e"]}),
        (Selection(names=frozenset({("key", "bad")}), shards=frozenset({"00000"})), {"00000": ["bad"]}),
    ],
)
def test_what_a_selection_names(tmp_path: Path, wanted: Selection, found: dict[str, list[str]]) -> None:
    output, decision = written(tmp_path, "0.5")
    assert {done.shard: keys(output, done) for done in restored(output, decision, wanted)} == found


def test_a_uid_names_a_sample(tmp_path: Path) -> None:
    output, decision = written(tmp_path)
    table = ledger.read(output.bytes_of(output.layout.ledger("00000")), "x")
    (done,) = restored(output, decision, Selection(names=frozenset({("uid", table["uid"][1])})))
    assert keys(output, done) == [table["key"][1]]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            Selection(names=frozenset({("key", "c"), ("key", "a"), ("uid", "0" * 32)})),
            "2 entries match no .*key:c, uid:0",
        ),
        (Selection(names=frozenset({("url", "http://x")})), "keys and uids, not url:http://x"),
        (Selection(shards=frozenset({"00007"})), "no finished shard has the name 00007"),
        (Selection(reasons=frozenset({"taste"})), "for the reason taste, but for policy, unscored:no_image"),
    ],
)
def test_what_matches_nothing_is_refused_and_nothing_is_written(
    tmp_path: Path, wanted: Selection, message: str
) -> None:
    output, decision = written(tmp_path)
    before = files(output)
    with pytest.raises(UsageError, match=message):
        restored(output, decision, wanted)
    assert files(output) == before


def test_denied_samples_stay_away_unless_that_is_said(tmp_path: Path) -> None:
    output, decision = written(tmp_path, "0", deny="key:a\n")
    with pytest.raises(UsageError, match=r"2 of these samples are on the denylist.*--denied"):
        select(output.layout, output.storage, EVERYTHING)
    narrow = Selection(reasons=frozenset({"unscored:no_image"}))
    assert {shard: len(rows) for shard, rows in select(output.layout, output.storage, narrow).items()} == {
        "00000": 1,
        "part/00001": 1,
    }
    assert [keys(output, done) for done in restored(output, decision)] == [["a", "bad"], ["bad", "a"]]


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    output, decision = written(tmp_path)
    first = restored(output, decision)
    root = Path(output.layout.root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    for shard in output.inventory.shards:
        Path(shard.url).unlink()
    assert restored(output, decision) == first
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert list(restores.shards(output.layout, output.storage)) == first


def test_no_sample_comes_back_twice(tmp_path: Path) -> None:
    output, decision = written(tmp_path)
    (first,) = restored(output, decision, Selection(names=frozenset({("sample", "00000/a")})))
    done = restored(output, decision)
    assert done[0] == first or first in done
    found = [(one.shard, key) for one in restores.shards(output.layout, output.storage) for key in keys(output, one)]
    assert sorted(found) == [
        ("00000", "a"),
        ("00000", "b"),
        ("00000", "bad"),
        ("part/00001", "bad"),
        ("part/00001", "e"),
    ]


def test_killed_anywhere_and_run_again_ends_in_the_same_bytes(tmp_path: Path) -> None:
    def some(name: str) -> tuple[Output, Decision]:
        output = shelve(tmp_path / name, {"00000": ONE})
        decision = decided(output, "0.5", "quarantine")
        apply_shard(output.shard, decision, output.layout, output.storage)
        return output, decision

    whole, decision = some("whole")
    restored(whole, decision)
    steps = ("claim", "tar", "parquet", "stats", "record")
    for left, step in enumerate(steps):
        output, decision = some(step)
        with pytest.raises(StorageError, match="killed"):
            restored(output, decision, storage=Failing(left))
        assert not [name for name in files(output) if name.endswith(".tmp")]
        restored(output, decision)
        ours, theirs = files(output), files(whole)
        assert set(ours) >= {name for name in theirs if "restore" in name}
        # The record tells where the input was.
        assert all(ours[n] == theirs[n] for n in theirs if n.startswith("restored-") or n.endswith("_meta.json"))


def test_an_input_that_changed_is_refused(tmp_path: Path) -> None:
    output, decision = written(tmp_path)
    path = Path(output.inventory.shards[0].url)
    then = path.stat().st_mtime_ns
    path.write_bytes(ONE.replace(b"x" * 600, b"y" * 600))
    with pytest.raises(InputError, match="changed since the inventory"):
        restored(output, decision)
    os.utime(path, ns=(then, then))  # not even its tag tells
    with pytest.raises(InputError, match="sample 1, 'b', is not the one of the ledger"):
        restored(output, decision)
    assert not [name for name in files(output) if name.startswith("restored-") or name.endswith(".tmp")]


def test_a_ledger_that_was_changed_is_refused(tmp_path: Path) -> None:
    output, decision = written(tmp_path)
    path = Path(output.layout.ledger("00000"))
    path.write_bytes(ledger.write(ledger.read(path.read_bytes(), "x").with_columns(key=pl.lit("z"))))
    with pytest.raises(InputError, match=r"ledger/00000\.parquet"):
        restored(output, decision)


def test_an_output_without_finished_shards_is_refused(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": ONE})
    with pytest.raises(UsageError, match="no finished shard; run apply first"):
        select(output.layout, output.storage, EVERYTHING)


def test_a_claim_that_was_edited_is_refused(tmp_path: Path) -> None:
    output, decision = written(tmp_path)
    restored(output, decision)
    (one,) = restores.claims(output.layout, output.storage)
    path = Path(output.layout.restore(one.key, "_meta"))
    path.write_text(json.dumps({"decision_key": decision.key, "samples": {"00000": [0]}}))
    with pytest.raises(InputError, match="renamed or edited"):
        restored(output, decision)
    path.write_text("{}")
    with pytest.raises(InputError, match="not the claim of a restore"):
        restored(output, decision)


def test_two_that_claim_the_same_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second claim appears between the first one's look and its own claim."""
    output, decision = written(tmp_path)
    other = Claim(decision.key, {"00000": [0]})
    looks = [[], [other]]
    monkeypatch.setattr(restores, "claims", lambda *_: looks.pop(0))
    with pytest.raises(InputError, match="another restore has just begun"):
        restores.claim(output.layout, output.storage, decision.key, {"00000": {0: "a", 1: "b"}})
    assert not Path(output.layout.restores()).exists() or not list(Path(output.layout.restores()).rglob("*.json"))
