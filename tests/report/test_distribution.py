"""Quantiles are right to two digits, the axis shows the bulk with an edge at the cut, and every bar is exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecif.report import distribution
from ecif.report.distribution import (
    BARS,
    COARSE,
    Histogram,
    Sketch,
    axis_range,
    bar_edges,
    count_bars,
    mirrored,
)
from ecif.report.figures import NARROW, WIDE, Frame, histogram

floats = st.floats(-(2.0**100), 2.0**100, width=32)
narrow = st.integers(-3_000, 3_000).map(lambda n: float(np.float32(1000) + np.float32(2.0**-14) * np.float32(n)))
most_bins = st.sampled_from([8, 100, distribution.MOST])


def sketch_of(values: list[float], shift: int = COARSE) -> Sketch:
    sketch = Sketch(shift)
    for part in np.array_split(np.array(values, dtype=np.float32), 3):
        sketch.add(part)
    return sketch


def held(sketch: Sketch) -> tuple[object, ...]:
    ids, counts = sketch.bins()
    return sketch.shift, sketch.count, sketch.smallest, sketch.largest, ids.tolist(), counts.tolist()


@pytest.mark.parametrize("shift", [0, COARSE])
@given(st.lists(floats, min_size=1), st.floats(0.001, 1))
def test_quantiles_are_those_of_sorting_to_two_digits(shift: int, values: list[float], q: float) -> None:
    sketch = sketch_of(values, shift)
    exact = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    assert sketch.quantile(q) == pytest.approx(exact, rel=0.004 if shift else 0, abs=2.0**-133 if shift else 0)
    assert (sketch.count, sketch.smallest, sketch.largest) == (len(values), min(values), max(values))


@given(st.lists(floats | narrow), st.lists(st.integers(0, 50)), st.randoms(use_true_random=False), most_bins)
def test_a_sketch_depends_on_its_values_alone(values: list[float], cuts: list[int], random: object, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distribution, "MOST", most)
        patch.setattr(distribution, "_WAITING", 5)
        whole = sketch_of(values, 0)
        shuffled = [*values]
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        found = Sketch()
        for part in np.split(np.array(shuffled), sorted(cuts)):
            one = sketch_of(part.tolist(), 0)
            found.merge(one.bins(), one.shift, one.smallest, one.largest)
        assert held(found) == held(whole)
        assert len(whole.bins()[0]) <= most


@given(st.lists(floats | narrow, min_size=1), st.booleans(), st.none() | floats | narrow, st.integers(0, 14))
def test_edges_grow_and_one_of_them_is_the_cut(
    values: list[float], with_zero: bool, cut: float | None, shift: int
) -> None:
    low, high = axis_range(sketch_of(values, shift), with_zero)
    edges = bar_edges(low, high, cut, shift)
    assert low < high
    assert (np.diff(edges) > 0).all()
    assert edges[0] <= max(low + (high - low) * 1e-9, np.nextafter(np.float32(low), np.float32(np.inf)))
    assert edges[-1] >= high - (high - low) * 1e-9
    if cut is not None and low <= cut <= high:
        assert cut in edges
    assert 1 <= len(edges) - 1 <= 2 * BARS + 2


@settings(max_examples=150)
@given(st.lists(floats, min_size=1) | st.lists(narrow, min_size=1), st.data(), most_bins)
def test_bars_are_those_of_counting(values: list[float], data: st.DataObject, most: int) -> None:
    cut = data.draw(st.none() | st.sampled_from(values) | floats | st.just(sum(values) / len(values)), label="cut")
    scores = np.array(values, np.float32) + np.float32(0)
    exact = scores.astype(np.float64)
    tie = exact == cut
    goes = np.zeros(scores.size, bool)
    if cut is not None:  # what is worse than the cut goes, and some of what lies exactly at it, if nothing spares it
        goes = (exact > cut) | (tie & (tie.cumsum() <= data.draw(st.integers(0, 3), label="ties")))
        goes &= np.resize(data.draw(st.lists(st.booleans(), min_size=1, max_size=9), label="may go"), goes.size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distribution, "MOST", most)
        kept, dropped = sketch_of(scores[~goes].tolist(), 0), sketch_of(scores[goes].tolist(), 0)
        edges = bar_edges(*axis_range(sketch_of(values), True), cut, max(kept.shift, dropped.shift))
        less = exact < (0.0 if cut is None else cut)
        bars = count_bars(kept, dropped, edges, cut, (int((less & ~goes).sum()), int((less & goes).sum())))
    place = np.searchsorted(edges, exact, side="right")
    for counts, part in ((bars.kept, place[~goes]), (bars.dropped, place[goes])):
        assert list(counts) == np.bincount(part, minlength=len(edges) + 1)[1:-1].tolist()
    assert (bars.below, bars.above) == ((place == 0).sum(), (place == len(edges)).sum())
    assert mirrored(mirrored(bars)) == bars


def test_mirrored_bars_are_those_of_the_negated_scores() -> None:
    assert mirrored(Histogram((-1.0, 0.0, 3.0), (1, 2), (3, 4), 5, 6)) == Histogram(
        (-3.0, 0.0, 1.0), (2, 1), (4, 3), 6, 5
    )


@pytest.mark.parametrize("cut", [None, -1.23456789e-6, 0.0])
def test_bars_of_a_large_corpus_are_equal_but_for_those_beside_the_cut(cut: float | None) -> None:
    values = (np.random.default_rng(0).standard_cauchy(600_000) * 1e-6).astype(np.float32)
    sketch = sketch_of(values.tolist(), 0)
    assert 1 <= sketch.shift <= 10
    widths = np.diff(bar_edges(*axis_range(sketch, True), cut, sketch.shift))
    assert BARS * 0.8 <= len(widths) <= BARS + 1
    off = np.sort(np.abs(widths / np.median(widths) - 1))
    assert off[-1] < 0.02
    assert off[-3] < 1e-4


def test_a_narrow_range_far_from_zero_has_a_bar_for_every_number_it_can_hold() -> None:
    values = np.nextafter(np.float32(1000), np.float32(2000)) + np.float32(2.0**-14) * np.arange(4, dtype=np.float32)
    sketch = sketch_of(values.tolist() * 3, 0)
    edges = bar_edges(*axis_range(sketch, False), float(values[1]), sketch.shift)
    assert np.diff(edges) == pytest.approx(2.0**-14, rel=1e-9)
    bars = count_bars(sketch, Sketch(), edges, None, (0, 0))
    assert [count for count in bars.kept if count] == [3, 3, 3, 3]


def test_where_bins_are_wide_bars_are_wide_and_few() -> None:
    # Nearly all scores lie close together, far from zero, and the others fill every order of magnitude.
    random = np.random.default_rng(0)
    tail = np.float32(2.0) ** random.uniform(-100, 100, 300_000).astype(np.float32) * random.choice([-1, 1], 300_000)
    bulk = 1000 + random.uniform(-0.01, 0.01, 300_000).astype(np.float32)
    sketch = sketch_of([], 0)
    for part in (tail.astype(np.float32), bulk):
        sketch.add(part)
    edges = bar_edges(999.99, 1000.01, 1000.0, sketch.shift)
    assert sketch.shift > 0
    assert 2 <= len(edges) - 1 < BARS
    bars = count_bars(sketch, Sketch(), edges, None, (0, 0))
    assert sum(bars.kept) + bars.below + bars.above == sketch.count


@pytest.mark.parametrize("frame", [WIDE, NARROW])
@settings(max_examples=50)
@given(st.lists(floats, min_size=1), st.none() | floats)
def test_any_distribution_can_be_drawn(frame: Frame, values: list[float], cut: float | None) -> None:
    edges = bar_edges(*axis_range(sketch_of(values), True), cut, COARSE)
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
    edges = bar_edges(-1.0, 1.0, 1e9, 0)
    assert (edges[0], edges[-1], len(edges)) == (-1.0, pytest.approx(1.0, abs=1e-5), BARS + 1)


def test_labels_of_a_narrow_axis_differ() -> None:
    figure = Histogram((1000.0001, 1000.0002, 1000.0003), (1, 2), (0, 0), 0, 0)
    drawing = histogram(figure, WIDE, axis="a", cut=None, label="", ends=("worse", "better"), title="t")
    assert drawing.count(">1000.0002<") == drawing.count(">1000.00015<") == 1
