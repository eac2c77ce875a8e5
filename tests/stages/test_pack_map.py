"""The map is frozen once, by whoever is first, and only when readers will understand the packed shards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ecif import packmap
from ecif.errors import ConflictError, InputError, StorageError, UsageError
from ecif.layout import Layout
from ecif.stages.pack_map import extend_map, samples_of
from ecif.storage import Published, Storage
from tests.stages.recorded import record

ABCD = ["a", "b", "c", "d"]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path / "out"))


def numbered(shard: str, n: int) -> list[str]:
    return [f"{shard}-{i}" for i in range(n)]


def test_samples_and_which_of_them_stay(layout: Layout) -> None:
    storage = Storage()
    found = samples_of(record(layout, storage, "x", ABCD, gone=[0, 2]), layout, storage)
    assert found.select("index", "key", "uid", "stays").rows() == [
        (0, "a", "uid of x/a", False),
        (1, "b", "uid of x/b", True),
        (2, "c", "uid of x/c", False),
        (3, "d", "uid of x/d", True),
    ]
    assert samples_of(record(layout, storage, "y", ABCD, gone=range(4)), layout, storage)["stays"].sum() == 0
    assert samples_of(record(layout, storage, "z", []), layout, storage).height == 0


def test_the_map_counts_survivors(layout: Layout) -> None:
    storage = Storage()
    record(layout, storage, "b", numbered("b", 3))
    record(layout, storage, "a", numbered("a", 5), gone=[1, 4])
    record(layout, storage, "c", numbered("c", 2), gone=[0, 1])
    packed = extend_map(layout, storage, 4)
    (generation,) = packed.generations
    assert generation.shards == {"a": 3, "b": 3, "c": 0}
    assert [target.samples for target in packed.targets()] == [4, 2]
    assert packmap.load(layout, storage) == packed


def test_nothing_recorded_makes_no_generation(layout: Layout) -> None:
    assert extend_map(layout, Storage(), 4) == packmap.PackMap()


def test_a_second_call_changes_nothing(layout: Layout) -> None:
    storage = Storage()
    record(layout, storage, "a", ABCD, gone=range(4))
    first = extend_map(layout, storage, 4)
    assert (len(first.generations), first.packed) == (1, 0)
    assert extend_map(layout, storage, 4) == first


def test_arrivals_make_a_generation_of_their_own(layout: Layout) -> None:
    storage = Storage()
    record(layout, storage, "b", numbered("b", 5))
    first = extend_map(layout, storage, 3)
    record(layout, storage, "a", numbered("a", 4))
    second = extend_map(layout, storage, 3)
    assert second.generations[: len(first.generations)] == first.generations
    names = [(target.name, target.generation, target.samples) for target in second.targets()]
    assert names == [("00000000", 0, 3), ("00000001", 0, 2), ("00000002", 1, 3), ("00000003", 1, 1)]


def test_another_size_is_refused(layout: Layout) -> None:
    storage = Storage()
    record(layout, storage, "a", ABCD)
    extend_map(layout, storage, 3)
    with pytest.raises(ConflictError, match="packed in shards of 3 samples, not 4"):
        extend_map(layout, storage, 4)
    with pytest.raises(UsageError, match="--repack 0"):
        extend_map(layout, storage, 0)


def test_an_output_written_one_to_one_is_refused(layout: Layout) -> None:
    record(layout, Storage(), "a", ABCD, kinds=("ledger", "scores", "tar"))
    with pytest.raises(ConflictError, match="written one to one"):
        extend_map(layout, Storage(), 3)


def test_several_decisions_are_refused(layout: Layout) -> None:
    storage = Storage()
    record(layout, storage, "a", ["a"], decision_key="d" * 12)
    record(layout, storage, "b", ["b"], decision_key="e" * 12)
    with pytest.raises(ConflictError, match=r"d{12}, e{12}"):
        extend_map(layout, storage, 3)


@pytest.mark.parametrize("kind", ["ledger", "scores"])
def test_a_manifest_that_lacks_a_file_is_refused(layout: Layout, kind: str) -> None:
    record(layout, Storage(), "a", ABCD, kinds={"ledger", "scores"} - {kind})
    with pytest.raises(InputError, match=f"lists no {kind}"):
        extend_map(layout, Storage(), 3)


def test_scores_and_ledgers_that_changed_are_refused(layout: Layout) -> None:
    storage = Storage()
    recorded = record(layout, storage, "a", ABCD, gone=[0])
    path = Path(layout.scores(recorded.score_key, "a"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=r"scores/5+/a\.parquet"):
        extend_map(layout, storage, 3)


class TestCollisions:
    """Keys that readers would confuse are refused before anything is frozen."""

    def test_the_same_key_from_two_shards(self, layout: Layout) -> None:
        storage = Storage()
        record(layout, storage, "a/0", ["x", "y"])
        record(layout, storage, "b/0", ["z", "x"])
        message = r"packed shard 00000000 the key 'x' would stand twice, from the shards a/0 and b/0 \(sample 1\)"
        with pytest.raises(UsageError, match=message):
            extend_map(layout, storage, 4)
        assert not storage.list(layout.packs())

    def test_equal_keys_side_by_side_at_a_seam(self, layout: Layout) -> None:
        storage = Storage()
        record(layout, storage, "a", ["x", "y"], gone=[1])
        record(layout, storage, "b", ["x"])
        with pytest.raises(UsageError, match="from the shards a and b"):
            extend_map(layout, storage, 2)

    def test_equal_keys_in_different_packed_shards_are_fine(self, layout: Layout) -> None:
        storage = Storage()
        for shard in ("a", "b", "c"):
            record(layout, storage, shard, ["x", "y"])
        assert extend_map(layout, storage, 2).packed == 3

    def test_a_dropped_key_collides_with_nothing(self, layout: Layout) -> None:
        storage = Storage()
        record(layout, storage, "a", ["x", "y"], gone=[0])
        record(layout, storage, "b", ["x"])
        assert extend_map(layout, storage, 9).packed == 1

    def test_repeated_keys_of_one_shard_stay_as_they_are(self, layout: Layout) -> None:
        storage = Storage()
        record(layout, storage, "a", ["x", "y", "x"])
        assert extend_map(layout, storage, 9).packed == 1

    def test_unless_what_stood_between_them_is_dropped(self, layout: Layout) -> None:
        storage = Storage()
        record(layout, storage, "a", ["x", "y", "x"], gone=[1])
        with pytest.raises(UsageError, match=r"'x' of shard a would stand twice in a row \(sample 2\)"):
            extend_map(layout, storage, 9)
        assert extend_map(layout, storage, 1).packed == 2


class Late(Storage):
    """Real storage through which another run publishes its map just before this one."""

    __slots__ = ("meanwhile",)

    def __init__(self, meanwhile: Layout) -> None:
        super().__init__()
        self.meanwhile = meanwhile

    def publish(self, url: str, data: bytes | Path, *, replace: bool = False) -> Published:
        if url.endswith("/pack/000000.json"):
            record(self.meanwhile, Storage(), "c", numbered("c", 3))
            Path(self.meanwhile.manifest("a")).rename(f"{self.meanwhile.root}/aside")
            extend_map(self.meanwhile, Storage(), 2)
            Path(f"{self.meanwhile.root}/aside").rename(self.meanwhile.manifest("a"))
        return super().publish(url, data, replace=replace)


def test_the_map_that_is_there_first_holds_and_the_rest_comes_after_it(layout: Layout) -> None:
    storage = Late(layout)
    record(layout, storage, "a", numbered("a", 3))
    record(layout, storage, "b", numbered("b", 1))
    packed = extend_map(layout, storage, 2)
    assert [dict(one.shards) for one in packed.generations] == [{"b": 1, "c": 3}, {"a": 3}]
    assert packmap.load(layout, Storage()) == packed == extend_map(layout, Storage(), 2)


def test_many_at_once_make_one_map(layout: Layout) -> None:
    def run(number: int) -> packmap.PackMap:
        record(layout, Storage(), f"{number}", numbered(f"{number}", number + 1))
        return extend_map(layout, Storage(), 4)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, range(8)))
    whole = packmap.load(layout, Storage())
    assert whole.shards == {str(number) for number in range(8)}
    assert all(one.generations == whole.generations[: len(one.generations)] for one in found)


def test_storage_that_fails_freezes_nothing(layout: Layout) -> None:
    class Full(Storage):
        __slots__ = ()

        def publish(self, url: str, data: bytes | Path, *, replace: bool = False) -> Published:
            raise StorageError("no room", url=url)

    record(layout, Storage(), "a", ABCD)
    with pytest.raises(StorageError, match="no room"):
        extend_map(layout, Full(), 2)
    assert packmap.load(layout, Storage()) == packmap.PackMap()
