"""Quantiles are right to two digits, and the axis shows the bulk with an edge at the cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecif.report.distribution import BARS, Histogram, Sketch, axis_range, bar_edges
from ecif.report.figures import NARROW, WIDE, Frame, histogram

floats = st.floats(-(2.0**100), 2.0**100, width=32)


def sketch_of(values: list[float]) -> Sketch:
    sketch = Sketch()
    for part in np.array_split(np.array(values, dtype=np.float32), 3):
        sketch.add(part)
    return sketch


@given(st.lists(floats, min_size=1), st.floats(0.001, 1))
def test_quantiles_are_those_of_sorting_to_two_digits(values: list[float], q: float) -> None:
    sketch = sketch_of(values)
    exact = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    assert sketch.quantile(q) == pytest.approx(exact, rel=0.004, abs=2.0**-133)
    assert (sketch.count, sketch.smallest, sketch.largest) == (len(values), min(values), max(values))


@given(st.lists(floats, min_size=1), st.booleans(), st.none() | floats)
def test_edges_grow_and_one_of_them_is_the_cut(values: list[float], with_zero: bool, cut: float | None) -> None:
    low, high = axis_range(sketch_of(values), with_zero)
    edges = bar_edges(low, high, cut)
    assert low < high
    assert (np.diff(edges) > 0).all()
    assert edges[0] <= low + (high - low) * 1e-9
    assert edges[-1] >= high - (high - low) * 1e-9
    if cut is not None and low <= cut <= high:
        assert cut in edges
    assert BARS <= len(edges) - 1 <= 2 * BARS + 1


@pytest.mark.parametrize("frame", [WIDE, NARROW])
@settings(max_examples=50)
@given(st.lists(floats, min_size=1), st.none() | floats)
def test_any_distribution_can_be_drawn(frame: Frame, values: list[float], cut: float | None) -> None:
    edges = bar_edges(*axis_range(sketch_of(values), True), cut)
    bars = tuple(range(len(edges) - 1))
    figure = Histogram(tuple(edges.tolist()), bars, bars, 0, 0)
    drawing = histogram(figure, frame, axis="a", cut=cut, label="cut", ends=("<worse>", "better"), title="t & t")
    assert drawing.startswith("<svg ")
    assert "&lt;worse&gt;" in drawing
    assert "nan" not in drawing
    assert "inf" not in drawing


def test_a_long_tail_does_not_squeeze_the_bulk() -> None:
    values = np.random.default_rng(0).normal(size=10_000).tolist()
    low, high = axis_range(sketch_of([*values, 1e6, -1e6]), with_zero=True)
    assert -12 < low < -2.5
    assert 2.5 < high < 12


def test_a_cut_far_away_does_not_stretch_the_axis() -> None:
    edges = bar_edges(-1.0, 1.0, 1e9)
    assert (edges[0], edges[-1], len(edges)) == (-1.0, 1.0, BARS + 1)
