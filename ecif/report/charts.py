"""Curves of what canaries say, and how many shards lose how much, as inline SVG.

Shares of pairs lie on a logarithmic axis: the cuts that people make are at a few percent, and a linear one would show
them in its first centimetre. Curves differ by dash as well as by colour (the style sheet's classes `s0`, `s1`, ...).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from ecif.calibration.curve import Curve
from ecif.calibration.measure import Estimate
from ecif.calibration.state import ALL, WITHOUT, Calibration
from ecif.report import drawing
from ecif.report.agreement import PARTS
from ecif.report.drawing import CHARACTER, LEFT, LINE, NARROW, TOP, WIDE, Frame, line, text
from ecif.report.numbers import Numbers
from ecif.report.numerals import integer, percent, plural
from ecif.stages.outcome import BINS, Outcome

_WIDE, _NARROW = Frame(1040, 360, 9, 3), Frame(340, 360, 4, 5)  # of curves, which have a legend
MOST = 5  # scores in one drawing
_LEAST_SHARE = 1e-3  # where the axis of shares begins, unless there are too few pairs for it
_FEWEST = 10  # real pairs beyond a cut that say something about it
_ROUND = (0.001, 0.01, 0.1, 1.0)

Series = Mapping[str, Sequence[tuple[float, Estimate]]]
"""Curves by name: points (share of the pairs dropped, estimate), rising."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing in both widths. caption: what it shows, in a sentence for everyone."""

    name: str
    caption: str
    wide: Markup
    narrow: Markup


def charts(numbers: Numbers) -> list[Figure]:
    """All drawings beside the histogram for which there is something to draw."""
    found = []
    calibration, score = numbers.calibration, numbers.detector.name
    at = numbers.cut / numbers.ok if 0 < numbers.cut < numbers.ok else None
    if calibration is not None and (curve := calibration.curves.get(score)) is not None:
        found += [_both("curves", precision_recall(calibration, score), f"Cuts through {score}", at, band=True)]
        found += [_both("kinds", by_kind(curve), f"Mistakes found by {score}", at)]
    if calibration is not None and len(calibration.curves) > 1:
        found += [_both("scores", by_score(calibration, score), "Mistakes found by each score", at)]
    if numbers.outcome is not None and numbers.outcome.shards > 1:
        title = rates_title(numbers.outcome)
        found += [Figure("rates", title, *(rates(numbers.outcome, frame, title) for frame in (WIDE, NARROW)))]
    return found


def precision_recall(calibration: Calibration, score: str) -> Series:
    """Estimated precision and recall of every cut through a score."""
    curve, share = calibration.curves[score], calibration.share
    return {
        "precision": _points(curve, lambda cut: curve.precision(cut, share)),
        "recall": _points(curve, curve.recall),
    }


def by_kind(curve: Curve) -> Series:
    """Share of the canaries found, by kind."""
    return {kind: _points(curve, lambda cut, kind=kind: curve.recall(cut, kind)) for kind in curve.canaries}  # type: ignore[misc]


def by_score(calibration: Calibration, deciding: str) -> Series:
    """Share of all canaries found, by score: the deciding one and those with the largest AUROC, no parts of another."""
    measured = [name for name in calibration.curves if name not in (WITHOUT, *PARTS) or name == deciding]
    order = sorted(measured, key=lambda name: (name != deciding, -calibration.measures[name][ALL].auroc.value))
    return {name: _points(calibration.curves[name], calibration.curves[name].recall) for name in order[:MOST]}


def _points(curve: Curve, of: Callable[[float], Estimate]) -> list[tuple[float, Estimate]]:
    first = max(_LEAST_SHARE, _FEWEST / curve.pairs)
    found = [(curve.dropped(cut).value, of(cut)) for cut in curve.cuts]
    return sorted(((x, y) for x, y in found if x >= first), key=lambda point: point[0])


def _both(name: str, series: Series, what: str, at: float | None, *, band: bool = False) -> Figure:
    title = _said(series, what, 0.05 if at is None else at)
    wide, narrow = (curves(series, frame, title=title, at=at, band=band) for frame in (_WIDE, _NARROW))
    return Figure(name, title, wide, narrow)


def _said(series: Series, what: str, at: float) -> str:
    """The drawing in a sentence: where each curve is at one share."""
    values = []
    for name, points in series.items():
        if points:
            shares, found = zip(*sorted((x, estimate.value) for x, estimate in points), strict=True)
            values.append(f"{name} {_share(float(np.interp(at, shares, found)))}")
    return f"{what}, by the share of pairs dropped. At {_share(at)} dropped: {', '.join(values)}, as canaries say it"


def curves(series: Series, frame: Frame, *, title: str, at: float | None, band: bool = False) -> Markup:
    """Draw shares against the share of pairs dropped.

    Args:
        title: the figure in one sentence. at: share of pairs that the decision drops; None draws no line.
        band: whether the 95 % interval lies behind each curve.
    """
    known = [x for points in series.values() for x, _ in points]
    low = math.log10(min([*known, 0.1]))

    def x(share: float) -> float:
        return LEFT + (math.log10(share) - low) / -low * (frame.right - LEFT)

    def y(share: float) -> float:
        return frame.bottom - share * (frame.bottom - TOP)

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts += [line("grid", LEFT, y(tick), frame.right, y(tick)), text(LEFT - 8, y(tick) + 4, f"{tick:.0%}", "end")]
    for number, points in enumerate(series.values()):
        if band and points:
            there = [(x(share), y(found.high)) for share, found in points]
            back = [(x(share), y(found.low)) for share, found in reversed(points)]
            parts.append(f'<path class="band s{number}" d="{_path(there + back)}Z"/>')
    for number, points in enumerate(series.values()):
        if points:
            places = [(x(share), y(found.value)) for share, found in points]
            parts.append(f'<path class="curve s{number}" d="{_path(places)}"/>')
    parts.append(line("axis", LEFT, frame.bottom, frame.right, frame.bottom))
    for tick in (tick for tick in _ROUND if math.log10(tick) >= low - 1e-9):
        parts.append(line("axis", x(tick), frame.bottom, x(tick), frame.bottom + 5))
        anchor = "end" if tick == 1.0 else "middle"
        parts.append(text(x(tick), frame.bottom + LINE, f"{100 * tick:g} %", anchor))
    parts += _legend(series, frame)
    parts.append(text((LEFT + frame.right) / 2, frame.bottom + 2 * LINE, "share of pairs dropped", "middle", "name"))
    if at is not None and math.log10(at) >= low:
        label = f"the cut, {_share(at)}"
        parts.append(line("cut", x(at), TOP - 28, x(at), frame.bottom))
        fits = x(at) + 6 + CHARACTER * len(label) < frame.right
        parts.append(text(x(at) + (6 if fits else -6), TOP - 18, label, "start" if fits else "end", "cutname"))
    return drawing.drawn(frame, title, parts)


def _legend(series: Series, frame: Frame) -> list[str]:
    """The names beside a piece of their curves, below the axis, in as many lines as there are."""
    parts, left, row = [], float(LEFT), 3
    for number, name in enumerate(series):
        width = 30 + CHARACTER * len(name) + 18
        if left + width > frame.right + 18 and left > LEFT and row < frame.lines:
            left, row = float(LEFT), row + 1
        height = frame.bottom + row * LINE
        parts.append(f'<path class="curve s{number}" d="M{left:.1f} {height - 4:.1f}h24"/>')
        parts.append(text(left + 30, height, name, "start"))
        left += width
    return parts


def rates_title(outcome: Outcome) -> str:
    """How many shards lose how much, in a sentence."""
    most = max(range(BINS), key=lambda n: outcome.rates[n])
    last = max((n for n in range(BINS) if outcome.rates[n]), default=0)
    return (
        f"Share of its pairs that each of {plural(outcome.shards, 'shard')} loses: {integer(outcome.rates[most])} lose "
        f"{_bin(most)}, none more than {100 * (last + 1) // BINS} %; overall "
        f"{percent(outcome.pairs - outcome.kept, outcome.pairs)} go"
    )


def rates(outcome: Outcome, frame: Frame, title: str) -> Markup:
    """Draw how many shards lose 0 to 5 % of their pairs, 5 to 10 %, and so on."""
    shown = max((n + 1 for n in range(BINS) if outcome.rates[n]), default=1)
    shown = min(BINS, max(4, shown + 1))
    tallest = max(1, *outcome.rates)

    def x(bin_edge: float) -> float:
        return LEFT + bin_edge / shown * (frame.right - LEFT)

    def y(count: float) -> float:
        return frame.bottom - count / tallest * (frame.bottom - TOP)

    edges = [float(n) for n in range(shown + 1)]
    path = drawing.bars(edges, [0] * shown, outcome.rates[:shown], x, y)
    parts = [*drawing.counts(frame, tallest), f'<path class="dropped" d="{path}"/>']
    parts.append(line("axis", LEFT, frame.bottom, frame.right, frame.bottom))
    every = max(1, math.ceil(shown / frame.ticks))
    for edge in range(0, shown + 1, every):
        parts.append(line("axis", x(edge), frame.bottom, x(edge), frame.bottom + 5))
        anchor = "end" if edge == shown else "middle"
        parts.append(text(x(edge), frame.bottom + LINE, f"{100 * edge // BINS} %", anchor))
    axis = "share of a shard's pairs that go"
    parts.append(text((LEFT + frame.right) / 2, frame.bottom + frame.lines * LINE, axis, "middle", "name"))
    parts.append(text(LEFT, TOP - 18, "shards", "start"))
    mean = (outcome.pairs - outcome.kept) / outcome.pairs * BINS if outcome.pairs else 0.0
    if 0 < mean <= shown:
        label = f"overall {percent(outcome.pairs - outcome.kept, outcome.pairs)}"
        parts.append(line("zero", x(mean), TOP - 28, x(mean), frame.bottom))
        fits = x(mean) + 6 + CHARACTER * len(label) < frame.right
        parts.append(text(x(mean) + (6 if fits else -6), TOP - 18, label, "start" if fits else "end"))
    return drawing.drawn(frame, title, parts)


def _bin(number: int) -> str:
    return f"{100 * number // BINS} to {100 * (number + 1) // BINS} %"


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _share(value: float) -> str:
    return f"{100 * value:.2g} %" if value < 0.01 else f"{100 * value:.3g} %"
