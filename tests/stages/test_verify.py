"""verify passes what apply writes, and notices every single thing that was tampered with."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ecif import inventory, manifest
from ecif.inventory import Shard
from ecif.manifest import FileMark
from ecif.selection import Decision
from ecif.settings import WriteSettings
from ecif.shards.tar import Member, TarWriter, read_members
from ecif.sources import expand
from ecif.stages.apply import apply_shard
from ecif.stages.plan import mark_applied
from ecif.stages.verify import Verification, Violation, verify, verify_shard
from tests.shards.tars import Entry, pack, sample
from tests.stages.outputs import SCORE_KEY, Output, parquet, policy, shelve

BAD = [Entry("bad.txt", b"no image here")]
SHARD = pack([*sample("a"), *sample("b", image=b"x" * 600), *BAD, Entry("__meta__", b"m"), *sample("c"), *sample("d")])


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """Two shards, of which one was written: a and b dropped, bad in quarantine, c and d kept."""
    return written(shelve(tmp_path, {"00000": SHARD}))


def written(output: Output) -> Output:
    write(output, output.decide(policy("0.5", "quarantine")))
    return output


def write(output: Output, decision: Decision, shards: Sequence[Shard] | None = None) -> None:
    """Write some shards, or all, as a run does it."""
    mark_applied(output.layout, output.storage, decision, WriteSettings())
    for shard in output.inventory.shards if shards is None else shards:
        apply_shard(shard, decision, output.layout, output.storage)


def check(output: Output) -> Verification:
    return verify(output.layout, output.storage, output.inventory)


def whats(output: Output) -> set[str]:
    return {violation.what for violation in check(output).violations}


def put(output: Output, kind: str, data: bytes | None) -> None:
    """Replace a file of the shard and make the manifest agree, as a careful forger would."""
    path = Path(getattr(output.layout, kind)("00000"))
    path.unlink(missing_ok=True)
    if data is not None:
        path.write_bytes(data)
    mark(output, kind, data)


def mark(output: Output, kind: str, data: bytes | None) -> None:
    """Make the manifest list other bytes, or none."""
    found = manifest.read(output.layout, output.storage, "00000")
    assert found is not None
    marks = {name: mark for name, mark in found.files.items() if name != kind}
    if data is not None:
        marks[kind] = FileMark(len(data), hashlib.sha256(data).hexdigest())
    forge(output, files=marks)


def forge(output: Output, **changes: Any) -> None:
    """Change fields of the manifest."""
    found = manifest.read(output.layout, output.storage, "00000")
    assert found is not None
    Path(output.layout.manifest("00000")).unlink()
    manifest.write(replace(found, **changes), output.layout, output.storage)


def members(output: Output, kind: str = "tar") -> list[Member]:
    return list(read_members(io.BytesIO(Path(getattr(output.layout, kind)("00000")).read_bytes()), kind))


def tar(found: list[Member]) -> bytes:
    buffer = io.BytesIO()
    writer = TarWriter(buffer)
    for member in found:
        writer.write(member.raw)
    writer.end()
    return buffer.getvalue()


def test_what_apply_writes_holds(output: Output) -> None:
    found = check(output)
    assert found == Verification(shards=1, samples=5, kept=2, dropped=2, quarantined=1, violations=())
    assert found.ok
    assert json.loads(json.dumps(found.to_json()))["ok"] is True


def test_forging_nothing_changes_nothing(output: Output) -> None:
    """The helpers below are no violation themselves."""
    for kind in ("tar", "quarantine"):
        put(output, kind, tar(members(output, kind)))
    forge(output)
    assert whats(output) == set()


@pytest.mark.parametrize("drop", ["0", "1"])
@pytest.mark.parametrize("unscored", ["keep", "drop"])
def test_all_kept_and_none_kept_hold(tmp_path: Path, drop: str, unscored: str) -> None:
    output = shelve(tmp_path, {"00000": SHARD, "b/00001": pack([])})
    write(output, output.decide(policy(drop, unscored)))
    assert check(output).violations == ()


def test_a_shard_that_is_not_written_is_reported(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": SHARD, "00001": SHARD})
    write(output, output.decide(policy()), output.inventory.shards[:1])
    found = check(output)
    assert [(v.shard, v.what) for v in found.violations] == [("00001", "not_written")]
    assert "not written yet" in found.violations[0].detail
    assert (found.shards, found.samples, found.ok) == (1, 5, False)


def test_a_damaged_output_is_noticed_by_its_hash(output: Output) -> None:
    for kind in ("tar", "parquet", "stats", "ledger", "quarantine"):
        path = Path(getattr(output.layout, kind)("00000"))
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        found = check(output)
        assert "file" in {violation.what for violation in found.violations}, kind
        assert any(str(path) in violation.detail for violation in found.violations), kind
        path.write_bytes(before)
    assert check(output).ok


def test_a_missing_file_is_noticed(output: Output) -> None:
    for kind in ("tar", "parquet", "stats", "ledger", "quarantine"):
        path = Path(getattr(output.layout, kind)("00000"))
        before = path.read_bytes()
        path.unlink()
        assert "missing" in whats(output), kind
        path.write_bytes(before)
    assert check(output).ok


def flip(found: list[Member]) -> list[Member]:
    raw = bytearray(found[0].raw)
    raw[600] ^= 1
    return [replace(found[0], raw=bytes(raw)), *found[1:]]


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(flip, id="a byte of the data"),
        pytest.param(lambda found: found[1:], id="the first member is gone"),
        pytest.param(lambda found: found[:-1], id="the last member is gone"),
        pytest.param(lambda found: found[::-1], id="another order"),
        pytest.param(lambda found: [*found, found[-1]], id="a member twice"),
        pytest.param(lambda found: [m for m in found if m.name != "__meta__"], id="metadata gone"),
    ],
)
def test_other_bytes_in_the_tar_are_noticed(output: Output, tamper: Callable[[list[Member]], list[Member]]) -> None:
    put(output, "tar", tar(tamper(members(output))))
    found = check(output)
    assert [violation.what for violation in found.violations] == ["bytes"]
    assert output.layout.tar("00000") in found.violations[0].detail


def test_another_header_of_the_same_member_is_noticed(output: Output) -> None:
    put(output, "tar", pack([Entry(m.name, bytes(m.data)) for m in members(output)], "gnu"))
    assert whats(output) == {"bytes"}


def test_a_cut_output_is_noticed(output: Output) -> None:
    put(output, "tar", tar(members(output))[:1000])
    assert whats(output) == {"bytes"}


def test_a_dropped_sample_that_is_still_there_is_noticed(output: Output) -> None:
    everything = list(read_members(io.BytesIO(SHARD), "x"))
    put(output, "tar", tar([m for m in everything if m.name != "bad.txt"]))
    assert whats(output) == {"bytes"}


def test_another_quarantine_is_noticed(output: Output) -> None:
    put(output, "quarantine", pack(sample("z")))
    assert whats(output) == {"bytes"}
    put(output, "quarantine", None)
    assert "counts" in whats(output)


def ledger(output: Output) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(output.bytes_of(output.layout.ledger("00000"))))


def test_a_sample_that_vanished_without_a_ledger_row_is_noticed(output: Output) -> None:
    put(output, "ledger", parquet(ledger(output)[1:]))
    assert {"ledger", "bytes", "counts"} <= whats(output)


def test_a_sample_that_was_dropped_against_the_decision_is_noticed(output: Output) -> None:
    """Tar, ledger, counts and sidecars agree with each other, but the decision keeps `c`."""
    everything = {m.name: m for m in read_members(io.BytesIO(SHARD), "x")}
    digest = hashlib.sha256(everything["c.jpg"].raw + everything["c.txt"].raw).hexdigest()
    gone = ledger(output)
    row = gone[:1].with_columns(key=pl.lit("c"), index=pl.lit(3, pl.UInt32), sha256=pl.lit(digest))
    put(output, "ledger", parquet(pl.concat([gone, row])))
    put(output, "tar", tar([m for m in members(output) if not m.name.startswith("c.")]))
    table = pl.read_parquet(io.BytesIO(output.bytes_of(output.layout.parquet("00000"))))
    put(output, "parquet", parquet(table.filter(pl.col("key") != "c")))
    stats = json.loads(output.bytes_of(output.layout.stats("00000")))
    stats |= {"count": 2, "successes": 1, "status_dict": stats["status_dict"] | {"success": 1}}
    put(output, "stats", json.dumps(stats).encode())
    forge(output, kept=1, dropped=3)
    assert [v.what for v in check(output).violations] == ["ledger"]


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": pl.lit("0" * 64)},
        {"key": pl.lit("z")},
        {"uid": pl.lit("z")},
        {"score": pl.lit(9.0, pl.Float32)},
        {"rank": pl.lit(9, pl.UInt32)},
        {"reason": pl.lit("unscored:ok")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_ledger_is_noticed(output: Output, change: dict[str, pl.Expr]) -> None:
    put(output, "ledger", parquet(ledger(output).with_columns(**change)))
    assert "ledger" in whats(output)


def test_a_ledger_that_is_none_is_noticed(output: Output) -> None:
    put(output, "ledger", b"no parquet")
    assert "ledger" in whats(output)
    put(output, "ledger", parquet(pl.DataFrame({"key": ["a"]})))
    assert "ledger" in whats(output)
    put(output, "ledger", None)
    assert {"counts", "ledger"} <= whats(output)


def test_other_counts_in_the_manifest_are_noticed(output: Output) -> None:
    forge(output, kept=3, dropped=1)
    assert whats(output) == {"counts"}
    forge(output, kept=2, dropped=2, statuses={"ok": 5}, unscored=0)
    assert whats(output) == {"scores"}


def test_sidecars_that_do_not_fit_are_noticed(output: Output) -> None:
    table = pl.read_parquet(io.BytesIO(output.bytes_of(output.layout.parquet("00000"))))
    for changed in (table[1:], pl.concat([table, table[:1]]), table[:-1], table.with_columns(url=pl.lit("x"))):
        put(output, "parquet", parquet(changed))
        assert "sidecars" in whats(output)
    put(output, "parquet", parquet(table))
    assert check(output).ok
    put(output, "stats", b'{"count": 3, "successes": 3}')
    assert whats(output) == {"sidecars"}
    put(output, "stats", None)
    assert whats(output) == {"sidecars"}


def test_a_changed_input_is_noticed(output: Output) -> None:
    Path(output.shard.url).write_bytes(SHARD.replace(b"a dog", b"a cat"))
    assert {"input", "bytes"} <= whats(output)
    Path(output.shard.url).unlink()
    assert "missing" in whats(output)


def test_other_scores_are_noticed(output: Output) -> None:
    path = Path(output.layout.scores(SCORE_KEY, "00000"))
    before = pl.read_parquet(path)
    changed = parquet(before.with_columns(influence=-pl.col("influence")))
    path.write_bytes(changed)
    assert whats(output) == {"scores"}
    mark(output, "scores", changed)
    assert whats(output) == {"ledger"}
    for fewer in (before[:-1], pl.concat([before[:1].with_columns(key=pl.lit("z")), before[1:]])):
        path.write_bytes(parquet(fewer))
        mark(output, "scores", parquet(fewer))
        assert "scores" in whats(output)


def test_a_decision_that_is_gone_is_noticed(output: Output) -> None:
    decisions = list(Path(output.layout.decisions()).glob("*.json"))
    assert len(decisions) == 1
    decisions[0].unlink()
    assert whats(output) == {"decision", "missing"}


def test_strays_are_noticed(output: Output) -> None:
    root = Path(output.layout.root)
    (root / "00007.tar").write_bytes(pack(sample("a")))
    (root / "sub").mkdir()
    (root / "sub" / "00008_stats.json").write_bytes(b"{}")
    quarantine = Path(output.layout.quarantine("00009"))
    quarantine.write_bytes(pack(sample("a")))
    (root / "README").write_bytes(b"not ours, and no shard")
    found = check(output).violations
    assert {(v.shard, v.what) for v in found} == {("00007", "stray"), ("sub/00008", "stray"), ("00009", "stray")}


def test_a_tar_without_its_manifest_is_a_stray(output: Output) -> None:
    Path(output.layout.manifest("00000")).unlink()
    assert whats(output) == {"not_written", "stray"}


def test_a_broken_manifest_is_noticed(output: Output) -> None:
    Path(output.layout.manifest("00000")).write_bytes(b"{}")
    assert whats(output) >= {"bad_manifest", "stray"}


def test_a_manifest_of_an_unknown_shard_is_noticed(output: Output) -> None:
    found = manifest.read(output.layout, output.storage, "00000")
    assert found is not None
    manifest.write(replace(found, shard="00042", files={}), output.layout, output.storage)
    detail = f"{output.layout.manifest('00042')}: has a manifest but is in no inventory"
    assert check(output).violations == (Violation("00042", "not_in_inventory", detail),)


def test_two_decisions_in_one_output_are_noticed(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": SHARD, "00001": SHARD})
    one, two = output.inventory.shards
    write(output, output.decide(policy(), "a" * 12), [one])
    apply_shard(two, output.decide(policy(), "b" * 12), output.layout, output.storage)
    assert whats(output) == {"several_decisions", "decision"}


def test_a_global_header_that_governed_only_dropped_samples_may_go(tmp_path: Path) -> None:
    first, second = pack(sample("b"), "pax"), pack(sample("a"), "pax", {"comment": "x"})
    found = [m for data in (first, second) for m in read_members(io.BytesIO(data), "x")]
    output = shelve(tmp_path, {"00000": tar(found)})
    scores = Path(output.layout.scores(SCORE_KEY, "00000"))
    scores.write_bytes(parquet(pl.read_parquet(scores).with_columns(influence=-pl.col("influence"))))
    written(output)
    assert output.bytes_of(output.layout.tar("00000")) == first
    assert check(output).violations == ()


def test_arrivals_that_are_not_written_do_not_hide_the_rest(tmp_path: Path) -> None:
    output = written(shelve(tmp_path, {"00000": SHARD}))
    (tmp_path / "in" / "00001.tar").write_bytes(SHARD)
    grown = inventory.take(expand([str(tmp_path / "in")], output.storage), output.layout, output.storage, {})
    found = verify(output.layout, output.storage, grown)
    assert [v.what for v in found.violations] == ["not_written"]
    assert (found.kept, found.dropped, found.quarantined) == (2, 2, 1)


def test_an_object_store(tmp_path: Path) -> None:
    output = written(shelve(tmp_path, {"a/00000": SHARD, "a/00001": SHARD}, out="memory://verify-test/out"))
    assert check(output) == Verification(shards=2, samples=10, kept=4, dropped=4, quarantined=2, violations=())
    output.storage.delete(output.layout.quarantine("a/00001"))
    output.storage.publish("memory://verify-test/out/b/00002.tar", SHARD)
    assert {(v.shard, v.what) for v in check(output).violations} == {("a/00001", "missing"), ("b/00002", "stray")}


def test_one_shard_alone(output: Output) -> None:
    missing = verify_shard(output.shard, output.layout, output.storage, None, None)
    assert [v.what for v in missing.violations] == ["not_written"]
    found = manifest.read(output.layout, output.storage, "00000")
    unknown = verify_shard(output.shard, output.layout, output.storage, found, None)
    assert [v.what for v in unknown.violations] == ["decision"]
