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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecif import inventory, manifest, packmap, packs
from ecif.errors import BadTarError, ConflictError, InputError, StorageError, UsageError
from ecif.inventory import Inventory
from ecif.packmap import PackMap
from ecif.sources import expand
from ecif.stages.pack import extend_map, pack_shard, record_shard
from ecif.storage import Published, Storage
from tests.conftest import Bucket
from tests.shards.tars import Entry, pack, sample, tarfile_members, tars, webdataset_samples
from tests.stages.outputs import SCORE_KEY, Output, parquet, policy, scores_of, shelve
from tests.stages.packing import numbered, pack_all, record_all

META = Entry("__meta__", b"about this shard")


def packed_tars(output: Output) -> list[bytes]:
    return [output.bytes_of(output.layout.tar(done.shard)) for done in packs.shards(output.layout, output.storage)]


def files(output: Output) -> dict[str, bytes]:
    """Everything in the output, by relative path."""
    root = Path(output.layout.root)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


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


def arrive(output: Output, name: str, data: bytes) -> Inventory:
    """One more shard in the inventory, with scores."""
    source = Path(output.inventory.shards[0].url).parent
    (source / f"{name}.tar").write_bytes(data)
    output.storage.publish(output.layout.scores(SCORE_KEY, name), parquet(scores_of(data, name, [1.0] * 3)))
    return inventory.take(expand([str(source)], output.storage), output.layout, output.storage, {})


def test_arrivals_leave_what_is_packed_as_it_is(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00001": numbered("b", 4)})
    decision = output.decide(policy("0"))
    pack_all(output, decision, 3)
    before = {name: data for name, data in files(output).items() if "inventory" not in name}
    shards = arrive(output, "00000", numbered("a", 3))
    made = pack_all(output, decision, 3, shards)
    assert [(done.shard, done.generation, done.samples) for done in made] == [
        ("00000000", 0, 3), ("00000001", 0, 1), ("00000002", 1, 3),
    ]  # fmt: skip
    assert {name: data for name, data in files(output).items() if name in before} == before
    assert [done.shard for done in packs.shards(output.layout, output.storage)] == [done.shard for done in made]


def test_another_decision_is_a_conflict(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": numbered("a", 3)})
    pack_all(output, output.decide(policy("0")), 2)
    other = output.decide(policy("0.4"), "e" * 12)
    target = next(packmap.load(output.layout, output.storage).targets())
    for remove in (False, True):
        if remove:
            output.storage.delete(output.layout.pack_manifest(0, target.name))
        with pytest.raises(ConflictError, match=f"decision d+, not {other.key}"):
            pack_shard(target, other, output.inventory.by_name(), output.layout, output.storage)


def test_an_input_that_changed_is_refused(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": numbered("a", 3)})
    decision = output.decide(policy("0"))
    record_all(output, decision)
    (target,) = extend_map(output.layout, output.storage, 9).targets()
    Path(output.shard.url).write_bytes(numbered("z", 3))
    with pytest.raises(InputError, match="has changed since"):
        pack_shard(target, decision, output.inventory.by_name(), output.layout, output.storage)
    assert not list(Path(output.layout.root).glob("*.*"))


def test_a_map_that_counts_on_what_is_not_there_is_refused(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": numbered("a", 3)})
    decision = output.decide(policy("0"))
    record_all(output, decision)
    (target,) = extend_map(output.layout, output.storage, 9).targets()
    with pytest.raises(InputError, match="is in no inventory"):
        pack_shard(target, decision, {}, output.layout, output.storage)
    more = packmap.Target(target.name, 0, (packmap.Part("00000", 0, 4),))
    with pytest.raises(InputError, match="counts 3 survivors, and the map more"):
        pack_shard(more, decision, output.inventory.by_name(), output.layout, output.storage)
    output.storage.delete(output.layout.manifest("00000"))
    with pytest.raises(InputError, match="is gone, but the map counts on it"):
        pack_shard(target, decision, output.inventory.by_name(), output.layout, output.storage)


class Killed(Storage):
    """Real storage that stops to write after some files, as a killed process does."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def _spend(self, url: str) -> None:
        if not self.left:
            raise StorageError("killed", url=url)
        self.left -= 1

    def publish(self, url: str, data: bytes | Path, *, replace: bool = False) -> Published:
        self._spend(url)
        return super().publish(url, data, replace=replace)

    def create(self, url: str, *, at_most: int | None = None):  # type: ignore[no-untyped-def]
        self._spend(url)
        return super().create(url, at_most=at_most)


def test_killed_anywhere_and_run_again_ends_in_the_same_bytes(tmp_path: Path) -> None:
    def make(folder: Path) -> Output:
        output = shelve(folder, {"00000": numbered("a", 3), "00001": numbered("b", 3)})
        output.decide(policy("0.34"))
        return output

    def ours(output: Output) -> dict[str, bytes]:
        # Manifests and inventory tell where and when the inputs were.
        found = {name: data for name, data in files(output).items() if "/inventory/" not in name}
        where = ("manifest/", "pack/000000/")
        return {n: b"" if n.endswith(".json") and any(w in n for w in where) else d for n, d in found.items()}

    whole = make(tmp_path / "whole")
    pack_all(whole, whole.decide(policy("0.34")), 3)
    left = 0
    while True:
        output = make(tmp_path / str(left))
        decision = output.decide(policy("0.34"))
        dying = Killed(left)
        try:
            pack_all(Output(output.layout, dying, output.inventory), decision, 3)
        except StorageError:
            assert len(pack_all(output, decision, 3)) == 2
            assert ours(output) == ours(whole)
            left += 1
        else:
            break
    assert left == 2 * 2 + 1 + 2 * 5


def test_many_at_once_do_no_harm(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": numbered("a", 3), "00001": numbered("b", 3)})
    decision = output.decide(policy("0.34"))
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: pack_all(output, decision, 3), range(8)))
    assert all(one == made[0] for one in made)
    assert len(packmap.load(output.layout, output.storage).generations) == 1


def test_two_at_once_on_an_object_store(tmp_path: Path, s3_bucket: Bucket) -> None:
    local = shelve(tmp_path, {"00000": numbered("a", 3), "00001": numbered("b", 3)}, out=f"{tmp_path}/local")
    storage = Storage(s3_bucket.options)
    layout = type(local.layout)(f"{s3_bucket.url}/out")
    for name in ("00000", "00001"):
        storage.publish(layout.scores(SCORE_KEY, name), local.bytes_of(local.layout.scores(SCORE_KEY, name)))
    output = Output(layout, storage, local.inventory)
    decision = local.decide(policy("0.34"))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: pack_all(output, decision, 3), range(2))
    assert first == second
    pack_all(local, decision, 3)
    assert packed_tars(output) == packed_tars(local)
    assert not s3_bucket.client().list_multipart_uploads(Bucket=s3_bucket.name).get("Uploads")


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
