"""The integer image of floats keeps their order and can be undone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif.radix import from_image, image, locate

floats = st.floats(width=32, allow_nan=False)


@given(floats, floats)
def test_the_image_has_the_order_of_the_floats(x: float, y: float) -> None:
    a, b = image(np.array([x, y], dtype=np.float32) + np.float32(0)).tolist()
    assert (a < b, a == b) == (x < y, x == y)


@given(floats)
def test_the_image_can_be_undone(x: float) -> None:
    (code,) = image(np.array([x], dtype=np.float32)).tolist()
    assert from_image(code).tobytes() == np.float32(x).tobytes()


@given(st.lists(st.integers(0, 4)).filter(any), st.data())
def test_locating_an_item_is_counting_to_it(counts: list[int], data: st.DataObject) -> None:
    items = [place for place, count in enumerate(counts) for _ in range(count)]
    n = data.draw(st.integers(1, len(items)))
    place, rank = locate(np.array(counts, dtype=np.int64), n)
    assert place == items[n - 1]
    assert rank == n - items.index(place)


@pytest.mark.parametrize(("value", "code"), [(0.0, 0x80000000), (1e-45, 0x80000001), (-1e-45, 0x7FFFFFFE)])
def test_the_image_of_the_smallest_numbers(value: float, code: int) -> None:
    assert image(np.array([value], dtype=np.float32)).tolist() == [code]
