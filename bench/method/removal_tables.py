"""The tables of the study of removal, in markdown: means over the seeds and their standard errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RANDOM, VALUABLE, ORACLE, ALL = "random", "most valuable", "oracle", "nothing"
# Of the paper's Table 1.
SHARE = 0.1
EDITED = (RANDOM, "influence", VALUABLE)


@dataclass(frozen=True, slots=True)
class Cell:
    """One trained or edited model: how it was judged, what was removed for it, and the seconds that it took.

    Attributes:
        removed, wrong: pairs removed, and truly wrong ones among them.
    """

    accuracy: float
    loss: float
    removed: int
    wrong: int
    seconds: float


Cells = Mapping[tuple[int, str, float], Cell]
"""By seed, what decided, and the fraction removed."""


def summary(values: Sequence[float], digits: int, *, signed: bool = False) -> str:
    """Mean ± standard error of the mean."""
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{np.mean(values):{'+' if signed else ''}.{digits}f} ± {error:.{digits}f}"


def tables(trained: Cells, areas: Sequence[Mapping[str, float]], fractions: Sequence[float]) -> list[str]:
    """Accuracy, cross-entropy, both against random removal of as many, and what was removed."""
    seeds = sorted({seed for seed, _, _ in trained})
    order = list(dict.fromkeys(what for _, what, _ in trained if what not in (ALL, ORACLE)))
    ends = ((ALL, 0.0), (ORACLE, 1.0))

    def values(field: str, what: str, fraction: float) -> list[float]:
        return [getattr(trained[seed, what, fraction], field) for seed in seeds]

    def grid(title: str, field: str, factor: float, digits: int) -> str:
        lines = [f"**{title}**\n", _row("removed by", *(f"{fraction:.0%}" for fraction in fractions))]
        lines.append(_row(*["---"] * (1 + len(fractions))))
        for what in order:
            cells = ([factor * x for x in values(field, what, fraction)] for fraction in fractions)
            lines.append(_row(what, *(summary(cell, digits) for cell in cells)))
        ended = (f"{what}: {summary([factor * x for x in values(field, what, at)], digits)}" for what, at in ends)
        return "\n".join([*lines, "", "; ".join(ended) + "\n"])

    def against(title: str, field: str, factor: float, digits: int) -> str:
        lines = [f"**{title}**\n", _row("removed by", *(f"{fraction:.0%}" for fraction in fractions), "all sizes")]
        lines.append(_row(*["---"] * (2 + len(fractions))))
        for what in order[1:]:
            changes = np.array(
                [
                    [factor * (a - b) for a, b in zip(values(field, what, f), values(field, RANDOM, f), strict=True)]
                    for f in fractions
                ]
            )
            cells = [*changes, changes.mean(0)]
            lines.append(_row(what, *(summary(cell.tolist(), digits, signed=True) for cell in cells)))
        return "\n".join([*lines, ""])

    lines = ["**wrong pairs among the removed, %, and AUROC of the score for wrong pairs**\n"]
    lines += [_row("removed by", *(f"{fraction:.0%}" for fraction in fractions), "AUROC")]
    lines.append(_row(*["---"] * (2 + len(fractions))))
    for what in order:
        shares = [
            summary([100 * trained[seed, what, f].wrong / trained[seed, what, f].removed for seed in seeds], 1)
            for f in fractions
        ]
        area = summary([found[what] for found in areas], 3) if what in areas[0] else ""
        lines.append(_row(what, *shares, area))
    return [
        grid("accuracy, %", "accuracy", 100, 1),
        grid("cross-entropy of the test images", "loss", 1, 3),
        against("accuracy less that after random removal of as many, points", "accuracy", 100, 1),
        against("cross-entropy less that after random removal of as many", "loss", 1, 3),
        "\n".join([*lines, ""]),
    ]


def paper(trained: Cells, edits: Mapping[tuple[int, str], tuple[Cell, Mapping[str, Any]]]) -> str:
    """Table 1 of arXiv 2411.11667 at this scale: a tenth removed; a new training, or an edit of the old weights."""
    seeds = sorted({seed for seed, _, _ in trained})
    lines = [f"**{SHARE:.0%} removed: a new training against an edit**\n"]
    lines.append(_row("removed", "how", "accuracy, %", "cross-entropy", "seconds"))
    lines.append(_row(*["---"] * 5))

    def add(what: str, how: str, cells: Sequence[Cell]) -> None:
        shown = (summary([100 * c.accuracy for c in cells], 1), summary([c.loss for c in cells], 3))
        lines.append(_row(what, how, *shown, summary([c.seconds for c in cells], 1)))

    add(ALL, "trained", [trained[seed, ALL, 0.0] for seed in seeds])
    for what in dict.fromkeys(what for _, what, fraction in trained if fraction == SHARE):
        add(what, "trained again", [trained[seed, what, SHARE] for seed in seeds])
        if what in EDITED:
            add(what, "edited", [edits[seed, what][0] for seed in seeds])
    lines += ["", "**change of the contrastive loss, less the untouched model's**\n"]
    head = ("removed", "step, %", "predicted, validation", "edited, validation", "edited, test", "trained again, test")
    lines += [_row(*head), _row(*["---"] * len(head))]
    for what in EDITED:
        found = [edits[seed, what][1] for seed in seeds]
        step = summary([100 * outcome["relative_step"] for outcome in found], 1)
        names = ("predicted", "actual", "test_edit", "test_again")
        lines.append(_row(what, step, *(summary([o[name] for o in found], 4, signed=True) for name in names)))
    return "\n".join([*lines, ""])


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
