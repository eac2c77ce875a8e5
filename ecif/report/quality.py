"""How far the scores can be trusted, in words and rows: what canaries say of them, and where they agree.

Numbers of canaries are promises about planted mistakes. Each table says so, because a reader sees the table and not
docs/calibration.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ecif import detectors
from ecif.calibration.curve import Curve
from ecif.calibration.measure import Estimate
from ecif.calibration.state import ALL, Calibration
from ecif.report.numbers import Agreement
from ecif.report.numerals import MINUS, integer, plural
from ecif.selection import Decision

STEPS = 10
"""Shades of a table; the style sheet has a class for each."""
_KINDS = {
    "swap": "another caption at random",
    "near": "the caption of a similar image",
    "word": "one word changed",
    "drop": "words left out",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A number of a table: how it reads, its 95 % interval, and how dark it is, 0 to `STEPS`."""

    value: str
    interval: str
    shade: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table of scores by something: its heads, and for each row its name, whether it stands out, and its cells."""

    caption: str
    heads: list[tuple[str, str]]
    rows: list[tuple[str, bool, list[Cell]]]


def measured(calibration: Calibration, deciding: str) -> list[Table]:
    """AUROC and AUPRC of every score by kind of canary, with intervals."""
    kinds = [*calibration.measures[detectors.LEARNED]]
    heads = [("all kinds" if kind == ALL else kind, _KINDS.get(kind, "")) for kind in kinds]

    def row(name: str, what: str, low: float) -> list[Cell]:
        found = calibration.measures[name]
        return [_estimate(getattr(found[kind], what), low) if kind in found else Cell("–", "", 0) for kind in kinds]

    return [
        Table(title, heads, [(name, name == deciding, row(name, what, low)) for name in calibration.scores])
        for what, title, low in (
            ("auroc", "AUROC: the chance that a planted mistake ranks worse than a real pair (0.5: chance)", 0.5),
            ("auprc", "AUPRC: average precision if planted mistakes were 5 % of all pairs (0.05: chance)", 0.05),
        )
    ]


def mistakes(calibration: Calibration) -> list[tuple[str, str]]:
    """The estimated share of natural mistakes: like the mean of all kinds, then like each kind alone."""
    rows = [("like the mean of all kinds", share(calibration.share))]
    return rows + [
        (f"like {kind}" + (f" ({_KINDS[kind]})" if kind in _KINDS else ""), share(found))
        for kind, found in calibration.shares.items()
        if kind != ALL
    ]


def of_cut(calibration: Calibration, decision: Decision) -> list[tuple[str, str]]:
    """What canaries say of this very cut; empty where it is not one cut through one score that they measured."""
    if decision.control is not None:
        return [("precision: of the pairs that go, natural mistakes, as everywhere", share(calibration.share))]
    curve: Curve | None = calibration.curves.get(decision.detector)
    plain = not (decision.rank_by or decision.groups or decision.where)
    if curve is None or decision.threshold is None or not plain:
        return []
    cut = decision.threshold
    return [
        ("pairs beyond the cut", share(curve.dropped(cut))),
        ("precision: of the pairs that go, natural mistakes", share(curve.precision(cut, calibration.share))),
        ("recall: of the natural mistakes, those that go", share(curve.recall(cut))),
        *((f"recall of {kind}", share(curve.recall(cut, kind))) for kind in curve.canaries),
    ]


def learned(calibration: Calibration) -> list[tuple[str, str]]:
    """The weights of the learned detector, the largest first."""
    model = calibration.model
    both = sorted(zip(model.columns, model.weights, strict=True), key=lambda item: -abs(item[1]))
    return [(name, f"{weight:+.2f}".replace("-", MINUS)) for name, weight in both]


def agreement(found: Agreement) -> list[Table]:
    """Rank correlations and overlaps of all scores with each other."""

    def rows(matrix: tuple[tuple[float, ...], ...], words: bool) -> list[tuple[str, bool, list[Cell]]]:
        return [
            (name, False, [Cell("–", "", 0) if i == j else _shaded(value, words) for j, value in enumerate(values)])
            for i, (name, values) in enumerate(zip(found.columns, matrix, strict=True))
        ]

    heads = [(name, "") for name in found.columns]
    worst = f"{100 * found.share:g} %"
    return [
        Table(
            "Rank correlation (Spearman), each score turned so that higher is worse", heads, rows(found.spearman, False)
        ),
        Table(
            f"Overlap: of the worst {worst} by the score of the row, the share that is among the worst {worst} by that "
            "of the column",
            heads,
            rows(found.overlap, True),
        ),
    ]


def planted(calibration: Calibration) -> str:
    """How many planted mistakes of which kind."""
    kinds = ", ".join(f"{integer(n)} {kind}" for kind, n in calibration.canaries.items())
    return f"{plural(sum(calibration.canaries.values()), 'planted mistake')} ({kinds})"


def share(found: Estimate) -> str:
    """`9.4 % [6.8 %, 13.1 %]`."""
    return f"{_percent(found.value)} [{_percent(found.low)}, {_percent(found.high)}]"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _estimate(found: Estimate, low: float) -> Cell:
    shade = round(STEPS * max(0.0, (found.value - low) / (1 - low)))
    return Cell(f"{found.value:.3f}", f"{found.low:.3f} to {found.high:.3f}", shade)


def _shaded(value: float, words: bool) -> Cell:
    if not math.isfinite(value):
        return Cell("–", "", 0)
    text = f"{100 * value:.0f} %" if words else f"{value:.2f}".replace("-", MINUS)
    return Cell(text, "", round(STEPS * min(1.0, max(0.0, value))))
