"""The map covers every survivor exactly once, in order, in shards of N."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif import packmap
from ecif.errors import InputError
from ecif.layout import Layout
from ecif.packmap import Generation, PackMap, Part, Target
from ecif.storage import Storage

COUNTS = st.lists(st.lists(st.integers(0, 30), max_size=12), max_size=4)


def generations(counts: list[list[int]], n: int) -> tuple[Generation, ...]:
    """Generations of shards with these many survivors, one after the other."""
    made: list[Generation] = []
    for number, kept in enumerate(counts):
        shards = {f"{number}/{place:03d}": count for place, count in enumerate(kept)}
        made.append(Generation(number, n, sum(one.packed for one in made), "d", shards, 1))
    return tuple(made)


@given(COUNTS, st.integers(1, 40))
def test_every_survivor_once_in_order_in_shards_of_n(counts: list[list[int]], n: int) -> None:
    packed = PackMap(generations(counts, n))
    targets = list(packed.targets())
    assert [target.name for target in targets] == [f"{number:08d}" for number in range(packed.packed)]
    found = [(part.shard, i) for target in targets for part in target.parts for i in range(part.first, part.last)]
    shards = {shard: kept for one in packed.generations for shard, kept in one.shards.items()}
    assert found == [(shard, i) for shard, kept in shards.items() for i in range(kept)]
    for generation in packed.generations:
        sizes = [target.samples for target in targets if target.generation == generation.number]
        assert sizes[:-1] == [n] * (len(sizes) - 1)
        assert not sizes or 1 <= sizes[-1] <= n
    assert packed.shards == set(shards)


def test_a_small_map() -> None:
    (generation,) = generations([[3, 0, 4, 1]], 3)
    assert list(generation.targets()) == [
        Target("00000000", 0, (Part("0/000", 0, 3),)),
        Target("00000001", 0, (Part("0/002", 0, 3),)),
        Target("00000002", 0, (Part("0/002", 3, 4), Part("0/003", 0, 1))),
    ]
    assert (generation.samples, generation.packed) == (8, 3)


@given(COUNTS, st.integers(1, 40))
def test_written_and_read_again(counts: list[list[int]], n: int) -> None:
    for generation in generations(counts, n):
        assert Generation.decode(generation.encode(), "x") == generation


def test_an_output_without_a_map(tmp_path: Path) -> None:
    assert packmap.load(Layout(str(tmp_path)), Storage()) == PackMap()


def test_load_reads_generations_in_order(tmp_path: Path) -> None:
    layout, storage = Layout(str(tmp_path)), Storage()
    made = generations([[3, 4], [0], [5]], 2)
    for generation in reversed(made):
        storage.publish(layout.pack_map(generation.number), generation.encode())
    storage.publish_json(layout.pack_manifest(0, "00000000"), {"not": "a generation"})
    assert packmap.load(layout, storage).generations == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples_per_shard": 0}, "out of range"),
        ({"first": -1}, "out of range"),
        ({"shards": {"a": -1}}, "out of range"),
        ({"shards": {"b": 1, "a": 1}}, "not sorted"),
        ({"shards": ["a"]}, "shards is"),
        ({"shards": {"a": 1.0}}, "a is 1.0"),
        ({"shards": {"a": True}}, "a is True"),
        ({"number": "0"}, "number is '0'"),
        ({"decision_key": None}, "decision_key is None"),
        ({"more": 1}, "has the fields"),
    ],
)
def test_a_damaged_generation_is_refused(change: dict[str, Any], message: str) -> None:
    value = json.loads(generations([[1]], 2)[0].encode()) | change
    with pytest.raises(InputError, match=message):
        Generation.decode(json.dumps(value).encode(), "x")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="not a valid map"):
        Generation.decode(data, "x")


def test_generations_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    layout, storage = Layout(str(tmp_path)), Storage()
    first, second = generations([[3], [4]], 2)
    storage.publish(layout.pack_map(1), second.encode())
    with pytest.raises(InputError, match="generation 1 from shard 2 stands where generation 0 from shard 0 is due"):
        packmap.load(layout, storage)
    with pytest.raises(ValueError, match="different sizes or decisions"):
        PackMap((first, Generation(1, 3, 2, "d", {"b": 1}, 1)))
    with pytest.raises(ValueError, match="different sizes or decisions"):
        PackMap((first, Generation(1, 2, 2, "e", {"b": 1}, 1)))
    with pytest.raises(ValueError, match="in two generations"):
        PackMap((first, Generation(1, 2, 2, "d", first.shards, 1)))
