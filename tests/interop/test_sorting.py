from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecif.interop.sorting import Sorter, repeats

HALF = st.sampled_from([0, 1, 2, 2**32, 2**63, 2**64 - 1])


def _sorter(folder: Path, numbers: list[tuple[int, int]], fit: int, parts: int = 1) -> Sorter:
    """A sorter of numbers tagged with their places, that sorts `fit` of them in memory."""
    sorter = Sorter(folder, bucket_bytes=fit * 24)
    places = np.arange(len(numbers), dtype=np.uint64)
    for part in np.array_split(places, parts):
        high, low = ([numbers[i][half] for i in part] for half in (0, 1))
        sorter.add(np.array(high, dtype=np.uint64), np.array(low, dtype=np.uint64), part)
    return sorter


@settings(max_examples=25)
@given(st.lists(st.tuples(HALF, HALF), max_size=40), st.integers(1, 50), st.integers(1, 3))
def test_sorts_what_does_not_fit(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[tuple[int, int]], fit: int, parts: int
) -> None:
    sorter = _sorter(tmp_path_factory.mktemp("sort"), numbers, fit, parts)
    found = [record for piece in sorter.sorted() for record in piece.tolist()]
    assert found == sorted((*number, place) for place, number in enumerate(numbers))


@settings(max_examples=25)
@given(st.lists(st.tuples(HALF, HALF), max_size=40), st.integers(1, 50))
def test_repeats_are_found_across_pieces(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[tuple[int, int]], fit: int
) -> None:
    found = list(repeats(_sorter(tmp_path_factory.mktemp("sort"), numbers, fit).sorted(), tags=2))
    expected = []
    for number in sorted(set(numbers)):
        places = [place for place, other in enumerate(numbers) if other == number]
        if len(places) > 1:
            expected.append((len(places), tuple(places[:2]), places[-1]))
    assert [(repeat.count, repeat.tags, repeat.largest) for repeat in found] == expected


def test_random_numbers_in_several_batches(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 2**64, size=(200_000, 2), dtype=np.uint64)
    sorter = Sorter(tmp_path, "u1", bucket_bytes=17 * 850)
    for part in np.array_split(numbers, 7):
        sorter.add(part[:, 0], part[:, 1], 1)
    pieces = list(sorter.sorted())
    assert max(len(piece) for piece in pieces) <= 850
    found = np.concatenate(pieces)
    order = np.lexsort((numbers[:, 1], numbers[:, 0]))
    assert (found["high"] == numbers[order, 0]).all()
    assert (found["low"] == numbers[order, 1]).all()
    assert list(tmp_path.iterdir()) == []
