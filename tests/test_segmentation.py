"""Batches: balanced, complete, seeded, and a function of the keys alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ecif.segmentation import segment


def keys(n: int) -> list[str]:
    return [f"{i:09d}" for i in range(n)]


@given(n=st.integers(0, 300), b=st.integers(2, 64), seed=st.integers(0, 99), k=st.integers(0, 9))
def test_every_row_stands_in_one_batch_and_sizes_differ_by_one(n: int, b: int, seed: int, k: int) -> None:
    batches = segment(keys(n), b, seed, k).batches
    assert sorted(np.concatenate(batches).tolist() if batches else []) == list(range(n))
    sizes = [len(batch) for batch in batches]
    assert len(sizes) == -(-n // b)
    assert not sizes or (max(sizes) - min(sizes) <= 1 and max(sizes) <= b)


def test_segmentations_and_seeds_differ_and_repeat() -> None:
    first = segment(keys(100), 10, 0, 0).batches
    assert all((a == b).all() for a, b in zip(first, segment(keys(100), 10, 0, 0).batches, strict=True))
    for other in (segment(keys(100), 10, 0, 1), segment(keys(100), 10, 1, 0)):
        assert any((a != b).any() for a, b in zip(first, other.batches, strict=True))


def test_the_order_is_fixed_for_ever() -> None:
    """A change here changes every score: it needs a new ALGO_VERSION."""
    assert np.concatenate(segment(keys(8), 4, 0, 0).batches).tolist() == [3, 6, 4, 5, 0, 7, 2, 1]


def test_the_order_follows_the_keys_and_not_their_places() -> None:
    names = keys(50)
    batches = segment(names, 8, 3, 2).batches
    turned = segment(names[::-1], 8, 3, 2).batches
    assert [[names[r] for r in b] for b in batches] == [[names[::-1][r] for r in b] for b in turned]


def test_small_shards() -> None:
    assert segment([], 8, 0, 0).batches == ()
    (one,) = segment(["a"], 8, 0, 0).batches
    assert one.tolist() == [0]
    (few,) = segment(keys(5), 8, 0, 0).batches
    assert len(few) == 5


def test_places_say_where_each_row_is() -> None:
    segmentation = segment(keys(10), 4, 0, 0)
    batch, position, size = segmentation.places(10)
    for row in range(10):
        assert segmentation.batches[batch[row]][position[row]] == row
        assert size[row] == len(segmentation.batches[batch[row]])
