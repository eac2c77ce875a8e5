"""Packed shards are the survivors of all inputs in order, byte for byte, whatever happens on the way."""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import tempfile
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecif import manifest, packmap, packs
from ecif.errors import BadTarError, InputError, UsageError
from ecif.inventory import Inventory
from ecif.packmap import PackMap
from ecif.stages.pack import extend_map, pack_shard, record_shard
from tests.shards.tars import Entry, pack, sample, tarfile_members, tars, webdataset_samples
from tests.stages.outputs import Output, parquet, policy, scores_of, shelve
from tests.stages.packing import numbered, pack_all, packed_tars, record_all

META = Entry("__meta__", b"about this shard")


def survivors(output: Output, tars: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Name and raw bytes of the members that stay, in order, by tarfile, webdataset and the ledgers."""
    for name in sorted(tars):
        gone = set(pl.read_parquet(io.BytesIO(output.bytes_of(output.layout.ledger(name))))["key"])
        found = webdataset_samples(tars[name])
        if len(gone) == len(found):
            continue
        lost = {f"{one['__key__']}.{extension}" for one in found if one["__key__"] in gone for extension in one}
        yield from ((m[0], m[3]) for m in tarfile_members(tars[name]) if m[0] not in lost)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(tars(("ustar", "gnu")), min_size=1, max_size=4),
    st.integers(1, 9),
    st.randoms(use_true_random=False),
    st.sampled_from(["0", "0.3", "0.6", "1"]),
    st.sampled_from(["keep", "drop", "quarantine"]),
)
def test_any_tars_any_size(found: list[bytes], n: int, rng: random.Random, drop: str, unscored: str) -> None:
    """One packed shard after the other holds what tarfile and webdataset read from the inputs."""
    inputs = {f"{place:05d}": data for place, data in enumerate(found)}
    scores = {}
    for name, data in inputs.items():
        count = len(webdataset_samples(data))
        values = [rng.choice([-1.0, 0.0, 2.0]) for _ in range(count)]
        scores[name] = scores_of(data, name, values, [rng.choice(["ok", "ok", "no_caption"]) for _ in range(count)])
    with tempfile.TemporaryDirectory() as folder:
        output = shelve(Path(folder), inputs, scores=scores)
        decision = output.decide(policy(drop, unscored))
        try:
            made = pack_all(output, decision, n)
        except UsageError:  # keys of several shards in one
            keys = [key for table in scores.values() for key in table["key"]]
            assert len(set(keys)) < len(keys)
            return
        expected = list(survivors(output, inputs))
        assert [(m[0], m[3]) for data in packed_tars(output) for m in tarfile_members(data)] == expected
        for done, data in zip(made, packed_tars(output), strict=True):
            assert len(webdataset_samples(data)) == done.samples
        assert [done.samples for done in made[:-1]] == [n] * (len(made) - 1)


@pytest.mark.parametrize(
    ("n", "sizes"), [(1, [1] * 7), (3, [3, 3, 1]), (4, [4, 3]), (7, [7]), (8, [7]), (10**9, [7])]
)  # fmt: skip
def test_sizes(tmp_path: Path, n: int, sizes: list[int]) -> None:
    inputs = {"00000": numbered("a", 4), "00001": numbered("b", 3), "00002": numbered("c", 4), "00003": pack([])}
    scores = {name: scores_of(data, name, range(-len(name), 99)[: len(webdataset_samples(data))])
              for name, data in inputs.items()}  # fmt: skip
    # All of 00001 and one of 00000 go.
    scores["00001"] = scores_of(inputs["00001"], "00001", [-9.0] * 3)
    scores["00000"] = scores_of(inputs["00000"], "00000", [5.0, -9.0, 5.0, 5.0])
    output = shelve(tmp_path, inputs, scores=scores)
    made = pack_all(output, output.decide(policy("0.37")), n)
    assert [done.samples for done in made] == sizes
    expected = list(survivors(output, inputs))
    assert [(m[0], m[3]) for data in packed_tars(output) for m in tarfile_members(data)] == expected
    assert not output.storage.exists(output.layout.tar("00001"))
    assert "00001" not in {shard for done in made for shard in done.inputs}


def test_what_is_written(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": numbered("a", 3), "00001": numbered("b", 3)})
    decision = output.decide(policy("0.34"))  # the first of each
    first, second = pack_all(output, decision, 3)
    layout = output.layout
    assert (first.shard, first.generation, first.samples, second.samples) == ("00000000", 0, 3, 1)
    assert {shard: (one.first, one.last) for shard, one in first.inputs.items()} == {"00000": (0, 2), "00001": (0, 1)}
    assert {shard: (one.first, one.last) for shard, one in second.inputs.items()} == {"00001": (1, 2)}
    inputs = {shard.name: (shard.url, shard.size, shard.etag) for shard in output.inventory.shards}
    assert {shard: (one.url, one.size, one.etag) for shard, one in first.inputs.items()} == inputs
    for done in (first, second):
        for kind, url in packs.urls(done.shard, 0, layout).items():
            mark = done.files[kind]
            output.storage.read_marked(url, mark.size, mark.sha256)
    for name in ("00000", "00001"):
        recorded = manifest.read(layout, output.storage, name)
        assert recorded is not None
        assert (recorded.kept, set(recorded.files)) == (2, {"ledger", "scores"})

    table = pl.read_parquet(io.BytesIO(output.bytes_of(layout.parquet("00000000"))))
    assert table.select("key", "status").rows() == [(key, "success") for key in ("a001", "a002", "b001")]
    stats = json.loads(output.bytes_of(layout.stats("00000000")))
    assert (stats["count"], stats["successes"], stats["status_dict"]) == (3, 3, {"success": 3})
    (origins, _) = packs.lookup(layout, output.storage)
    assert dict(origins.schema) == packs.TABLE | {"packed": pl.String}
    assert origins.select("shard", "index", "key", "position", "packed").rows() == [
        ("00000", 1, "a001", 0, "00000000"),
        ("00000", 2, "a002", 1, "00000000"),
        ("00001", 1, "b001", 2, "00000000"),
    ]
    assert sorted(path.name for path in Path(layout.root).iterdir()) == [
        "00000000.parquet", "00000000.tar", "00000000_stats.json",
        "00000001.parquet", "00000001.tar", "00000001_stats.json", "_ecif",
    ]  # fmt: skip


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": numbered("a", 3), "00001": numbered("b", 3)})
    decision = output.decide(policy("0.34"))
    made = pack_all(output, decision, 3)
    before = {path: path.stat().st_mtime_ns for path in Path(output.layout.root).rglob("*")}
    shutil.rmtree(tmp_path / "in")
    assert pack_all(output, decision, 3) == made
    assert {path: path.stat().st_mtime_ns for path in Path(output.layout.root).rglob("*")} == before


def test_quarantined_samples_are_not_packed(tmp_path: Path) -> None:
    tar = pack([*sample("a"), Entry("bad.txt", b"no image"), *sample("c")])
    output = shelve(tmp_path, {"00000": tar})
    (done,) = pack_all(output, output.decide(policy("0", "quarantine")), 9)
    assert done.samples == 2
    assert output.bytes_of(output.layout.quarantine("00000")) == pack([Entry("bad.txt", b"no image")])


class TestMembersOfNoSample:
    """They go with the sample that they follow; in front of the first, with that."""

    def names(self, tmp_path: Path, entries: Sequence[Entry], gone: Sequence[int], n: int) -> list[list[str]]:
        data = pack(entries)
        values = [-1.0 if i in gone else 1.0 for i in range(len(webdataset_samples(data)))]
        output = shelve(tmp_path, {"00000": data}, scores={"00000": scores_of(data, "00000", values)})
        fraction = f"{len(gone) / len(values) + 0.001:.3f}"
        pack_all(output, output.decide(policy(fraction)), n)
        return [[m[0] for m in tarfile_members(data)] for data in packed_tars(output)]

    def test_in_front_between_and_behind(self, tmp_path: Path) -> None:
        one, two, three = Entry("__1__", b"1"), Entry("__2__", b"2"), Entry("__3__", b"3")
        a, b = sample("a"), sample("b")
        found = self.names(tmp_path, [one, a[0], META, a[1], two, *b, three], [], 1)
        assert found == [["__1__", "a.jpg", "__meta__", "a.txt", "__2__"], ["b.jpg", "b.txt", "__3__"]]

    def test_around_dropped_samples(self, tmp_path: Path) -> None:
        one, two, three = Entry("__1__", b"1"), Entry("__2__", b"2"), Entry("__3__", b"3")
        d = sample("d")
        entries = [*sample("a"), one, *sample("b"), *sample("c"), two, d[0], three, d[1], *sample("e")]
        found = self.names(tmp_path, entries, [0, 3], 1)
        assert found == [["__1__", "b.jpg", "b.txt"], ["c.jpg", "c.txt", "__2__", "__3__"], ["e.jpg", "e.txt"]]


def test_extension_headers_travel_with_their_members(tmp_path: Path) -> None:
    long = "x" * 150
    inputs = {"00000": pack(sample(f"a{long}"), "gnu"), "00001": pack(sample(f"ü{long}"), "pax")}
    output = shelve(tmp_path, inputs)
    pack_all(output, output.decide(policy("0")), 9)
    (data,) = packed_tars(output)
    expected = [(m[0], m[3]) for name in sorted(inputs) for m in tarfile_members(inputs[name])]
    assert [(m[0], m[3]) for m in tarfile_members(data)] == expected


def test_compressed_inputs_are_packed_plain(tmp_path: Path) -> None:
    inputs = {"00000": numbered("a", 2), "00001": numbered("b", 2)}
    output = shelve(tmp_path, inputs | {"00000": gzip.compress(inputs["00000"])})
    pack_all(output, output.decide(policy("0")), 3)
    expected = [(m[0], m[3]) for data in inputs.values() for m in tarfile_members(data)]
    assert [(m[0], m[3]) for data in packed_tars(output) for m in tarfile_members(data)] == expected


def test_a_global_header_is_refused_before_the_map_counts_on_the_shard(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": pack(sample("a"), "pax", {"comment": "all"}), "00001": pack(sample("b"))})
    decision = output.decide(policy("0"))
    bad, good = output.inventory.shards
    with pytest.raises(BadTarError, match="global PAX header"):
        record_shard(bad, decision, output.layout, output.storage)
    record_shard(good, decision, output.layout, output.storage)
    packed = extend_map(output.layout, output.storage, 9)
    assert packed.shards == {"00001"}
    assert manifest.read(output.layout, output.storage, "00000") is None


def test_a_sidecar_of_another_tar_is_refused_before_the_map_counts_on_the_shard(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": numbered("a", 3)})
    table = pl.DataFrame({"key": ["z"], "status": ["success"]})
    Path(output.shard.url).with_suffix(".parquet").write_bytes(parquet(table))
    with pytest.raises(InputError, match="no successful row"):
        record_all(output, output.decide(policy("0.34")))
    assert extend_map(output.layout, output.storage, 2) == PackMap()


def test_sidecars_with_different_columns(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": numbered("a", 2), "00001": numbered("b", 2), "00002": numbered("c", 2)})
    first, second, third = (Path(shard.url).with_suffix(".parquet") for shard in output.inventory.shards)
    first.write_bytes(parquet(pl.DataFrame({"key": ["a001", "a000"], "width": pl.Series([1, 0], dtype=pl.Int32)})))
    second.write_bytes(parquet(pl.DataFrame({"key": ["b000", "b001"], "width": [10, 11], "LICENSE": ["?", "?"]})))
    third.unlink()
    shards = tuple(replace(shard, stats=None) for shard in output.inventory.shards)
    found = Inventory((*shards[:2], replace(shards[2], parquet=None)), ())
    pack_all(output, output.decide(policy("0")), 9, found)
    table = pl.read_parquet(io.BytesIO(output.bytes_of(output.layout.parquet("00000000"))))
    assert table.rows() == [
        ("a000", 0, None), ("a001", 1, None), ("b000", 10, "?"), ("b001", 11, "?"),
        ("c000", None, None), ("c001", None, None),
    ]  # fmt: skip


def test_without_sidecars_only_the_statistics_are_made(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": numbered("a", 3)}, sidecars=False)
    (done,) = pack_all(output, output.decide(policy("0")), 9)
    assert set(done.files) == {"tar", "stats", "table"}


def test_colliding_keys_are_refused_before_anything_is_packed(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"a/00000": numbered("x", 2), "b/00000": numbered("x", 2)})
    with pytest.raises(UsageError, match=r"'x000' would stand twice, from the shards a/00000 and b/00000"):
        pack_all(output, output.decide(policy("0")), 3)
    assert packmap.load(output.layout, output.storage) == PackMap()
    assert len(pack_all(output, output.decide(policy("0")), 2)) == 2


def test_memory_does_not_grow_with_the_shards(tmp_path: Path) -> None:
    def peak(n: int) -> int:
        data = pack([entry for i in range(n) for entry in sample(f"{i:04d}", image=bytes(500_000))])
        output = shelve(tmp_path / str(n), {"00000": data})
        decision = output.decide(policy("0"))
        record_all(output, decision)
        (target,) = extend_map(output.layout, output.storage, n).targets()
        del data
        tracemalloc.start()
        try:
            pack_shard(target, decision, output.inventory.by_name(), output.layout, output.storage)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            shutil.rmtree(tmp_path / str(n))

    peak(4)
    assert peak(120) < peak(60) + 1_000_000
