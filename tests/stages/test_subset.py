"""An output without records is proved against its inputs: parts of them, in order, byte for byte."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecif.shards.tar import Member, TarWriter, read_members
from ecif.sources import expand
from ecif.stages.apply import apply_shard
from ecif.stages.subset import verify_subset
from ecif.stages.verify import Verification
from ecif.stages.violations import ShardCheck
from tests.shards.tars import Entry, pack, sample, tars
from tests.stages.outputs import Output, parquet, policy, shelve

ONE = pack([Entry("__meta__", b"m"), *sample("a"), *sample("b", image=b"x" * 600), Entry("README"), *sample("c")])
TWO = pack([*sample("e"), *sample("a"), *sample("e"), *sample("g"), *sample("h")])


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """Written, and without its records."""
    output = shelve(tmp_path, {"00000": ONE, "part/00001": TWO})
    decision = output.decide(policy("0.5"))
    for shard in output.inventory.shards:
        apply_shard(shard, decision, output.layout, output.storage)
    shutil.rmtree(Path(output.layout.root) / "_ecif")
    return output


def check(output: Output, checks: list[ShardCheck] | None = None) -> Verification:
    source = str(Path(output.layout.root).parent / "in")
    found = expand([source], output.storage)
    return verify_subset(output.layout, output.storage, found, ([] if checks is None else checks).append)


def members(data: bytes) -> list[Member]:
    return list(read_members(io.BytesIO(data), "x"))


def tar(found: list[Member]) -> bytes:
    buffer = io.BytesIO()
    writer = TarWriter(buffer)
    for member in found:
        writer.write(member.raw)
    writer.end()
    return buffer.getvalue()


def put(output: Output, data: bytes, name: str = "part/00001") -> None:
    """Another tar, without sidecars."""
    path = Path(output.layout.tar(name))
    path.write_bytes(data)
    for url in (output.layout.parquet(name), output.layout.stats(name)):
        Path(url).unlink(missing_ok=True)


def test_what_apply_writes_holds(output: Output) -> None:
    checks: list[ShardCheck] = []
    found = check(output, checks)
    assert found == Verification(2, 8, 5, 3, 0, ())
    assert [(one.shard, one.samples, one.kept) for one in checks] == [("00000", 3, 2), ("part/00001", 5, 3)]


def test_a_tar_that_is_not_there_went_as_a_whole(output: Output) -> None:
    for url in (output.layout.tar("00000"), output.layout.parquet("00000"), output.layout.stats("00000")):
        Path(url).unlink()
    found = check(output)
    assert (found.shards, found.samples, found.kept, found.dropped, found.ok) == (1, 8, 3, 5, True)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(tars(), st.randoms(use_true_random=False))
def test_any_part_of_any_tar_holds(tmp_path_factory: pytest.TempPathFactory, data: bytes, rng: object) -> None:
    """Whatever samples go, what stays is found again, and the whole is part of itself."""
    folder = tmp_path_factory.mktemp("subset")
    output = shelve(folder, {"00000": data}, sidecars=False)
    decision = output.decide(policy(str(rng.choice(["0", "0.4", "0.8"]))))  # type: ignore[attr-defined]
    done = apply_shard(output.shard, decision, output.layout, output.storage)
    found = check(output)
    assert found.violations == ()
    assert (found.samples, found.kept) == (done.samples, done.kept)


def flip(found: list[Member]) -> list[Member]:
    raw = bytearray(found[0].raw)
    raw[600] ^= 1
    return [Member(found[0].name, bytes(raw), *[getattr(found[0], name) for name in Member.__slots__[2:]]), *found[1:]]


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(flip, id="a byte of the data"),
        pytest.param(lambda found: found[::-1], id="another order"),
        pytest.param(lambda found: [*found[2:], *found[:2]], id="another order of samples"),
        pytest.param(lambda found: found[1:], id="a part of a sample"),
        pytest.param(lambda found: [*found, found[-1]], id="a member twice"),
        pytest.param(lambda found: [*found, *members(pack(sample("z")))], id="a sample of another tar"),
        pytest.param(lambda found: [*found, *members(pack([Entry("more", b"x")]))], id="a member of no sample"),
        pytest.param(lambda found: members(pack([Entry(f"x{m.name}", bytes(m.data)) for m in found])), id="other keys"),
        pytest.param(lambda found: members(pack([Entry(m.name, bytes(m.data)) for m in found], "gnu")), id="headers"),
    ],
)
def test_other_bytes_are_noticed(output: Output, tamper: Callable[[list[Member]], list[Member]]) -> None:
    whole = members(TWO)[4:]
    put(output, tar(whole))
    assert check(output).ok
    put(output, tar(tamper(whole)))
    found = check(output)
    assert [(one.shard, one.what) for one in found.violations] == [("part/00001", "bytes")]
    assert output.layout.tar("part/00001") in found.violations[0].detail


def test_a_sample_that_comes_twice_in_the_input_may_stay_twice(output: Output) -> None:
    twice = members(TWO)
    for found in (twice[:2], twice[:6], [*twice[4:6], *twice[2:4]][:2], twice[2:6]):
        put(output, tar(found))
        assert check(output).ok  # equal samples: which is which cannot be told
    put(output, tar(twice[:2] + twice[4:6]))
    assert not check(output).ok  # side by side they are one sample
    put(output, tar(twice[:6] + twice[2:4]))
    assert not check(output).ok


def test_a_tar_that_ends_otherwise_is_noticed(output: Output) -> None:
    whole = tar(members(TWO))
    put(output, whole + b"more")
    assert [one.what for one in check(output).violations] == ["bytes"]
    put(output, whole[: len(whole) - 10240])
    assert [one.what for one in check(output).violations] == ["bytes"]
    put(output, whole[:1300])
    assert [one.what for one in check(output).violations] == ["tar"]


def test_a_tar_of_no_input_is_noticed(output: Output) -> None:
    put(output, ONE, "00007")
    assert [(one.shard, one.what) for one in check(output).violations] == [("00007", "no_input")]


def test_sidecars_that_do_not_fit_are_noticed(output: Output) -> None:
    path = Path(output.layout.parquet("00000"))
    table = pl.read_parquet(path)
    path.write_bytes(parquet(table[1:]))
    assert {one.what for one in check(output).violations} == {"sidecars"}
    path.unlink()
    Path(output.layout.stats("00000")).write_text('{"successes": 9}')
    assert {one.what for one in check(output).violations} == {"sidecars"}
    Path(output.layout.tar("00000")).unlink()
    assert {one.what for one in check(output).violations} == {"stray"}


def test_a_table_without_keys_is_matched_by_uid(tmp_path: Path) -> None:
    record = [b'{"uid": "u-1"}', b"{}"]
    output = shelve(tmp_path, {"00000": pack([*sample("a", json=record[0]), *sample("b", json=record[1])])})
    decision = output.decide(policy("0"))
    apply_shard(output.shard, decision, output.layout, output.storage)
    path = Path(output.layout.parquet("00000"))
    uids = pl.read_parquet(output.layout.scores("5" * 12, "00000"))["uid"]
    for change, whats in ((uids, set()), (uids.reverse(), set()), (pl.Series(["u-1", "u-2"]), {"sidecars"})):
        path.write_bytes(parquet(pl.DataFrame({"uid": change})))
        Path(output.layout.stats("00000")).unlink(missing_ok=True)
        assert {one.what for one in check(output).violations} == whats
