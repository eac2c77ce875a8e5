"""The verdict: what was found and missed of each kind of mistake, and how well each score tells it from clean pairs.

The AUROC of a kind compares the pairs of that kind with the clean ones only, so that the kinds do not blur each
other; it is the chance that a random mistake of that kind ranks worse than a random clean pair, ties counted half.
The only place that reads the truth.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif import detectors
from ecif.demo.mistakes import CLEAN, KINDS

if TYPE_CHECKING:
    from rich.table import Table

COMPARED = ("influence", "clip_score", "neg_clip_loss")
"""Where one of them decided."""
LEARNED = (detectors.LEARNED, "clip_score", "influence")
"""Where the learned detector did."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of mistake: pairs of it, those found (dropped), and AUROC by detector (None without scored pairs)."""

    name: str
    n: int
    found: int
    auroc: dict[str, float | None]

    @property
    def missed(self) -> int:
        """Mistakes of this kind that were kept."""
        return self.n - self.found


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The verdict over all kinds.

    Attributes:
        kinds: in the order of `mistakes.KINDS`. clean, clean_dropped: right pairs, and those dropped all the same.
        auroc, auprc: by detector, all mistakes against all clean pairs; over scored pairs. None where undefined.
        unscored: pairs of the truth without a score; they count in n, not in AUROC.
    """

    kinds: tuple[Kind, ...]
    clean: int
    clean_dropped: int
    auroc: dict[str, float | None]
    auprc: dict[str, float | None]
    unscored: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        kinds = [asdict(kind) | {"missed": kind.missed} for kind in self.kinds]
        return asdict(self) | {"kinds": kinds}

    def table(self) -> Table:
        """The verdict for a terminal."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        # Eighty columns, as terminals have them, must do: a number that is cut off is no number.
        table = Table(
            title="planted mistakes, and AUROC by score",
            title_justify="left",
            box=SIMPLE_HEAD,
            padding=0,
            pad_edge=False,
        )
        table.add_column("kind", no_wrap=True)
        for name in ("pairs", "found", "missed", *self.auroc):
            table.add_column(name, justify="right", no_wrap=True)
        for kind in self.kinds:
            row = (kind.name, f"{kind.n:,}", f"{kind.found:,}", f"{kind.missed:,}")
            table.add_row(*row, *(_shown(value) for value in kind.auroc.values()))
        n, found = sum(kind.n for kind in self.kinds), sum(kind.found for kind in self.kinds)
        table.add_section()
        row = ("all mistakes", f"{n:,}", f"{found:,}", f"{n - found:,}")
        table.add_row(*row, *(_shown(value) for value in self.auroc.values()), style="bold")
        table.add_row("all, AUPRC", "", "", "", *(_shown(value) for value in self.auprc.values()))
        table.add_row("clean", f"{self.clean:,}", f"{self.clean_dropped:,} lost", "", *("" for _ in self.auroc))
        return table


def evaluate(scores: pl.DataFrame, truth: pl.DataFrame, dropped: AbstractSet[str]) -> Evaluation:
    """Compare scores and decisions with the truth.

    Args:
        scores: rows of score files: `uid`, `status` and the detectors' columns; `p_misaligned` if it decided.
        truth: `uid`, `kind`. dropped: uids of the pairs that were dropped.

    Raises:
        ValueError: scores and truth are not about the same pairs.
    """
    if scores["uid"].n_unique() != len(scores) or set(scores["uid"]) != set(truth["uid"]):
        raise ValueError("scores and truth must have the same uids, each once")
    pairs = truth.select("uid", "kind").join(scores, on="uid", how="left", maintain_order="left")
    pairs = pairs.with_columns(dropped=pl.col("uid").is_in(list(dropped)))
    scored = pairs.filter(pl.col("status") == "ok")
    wrong = (scored["kind"] != CLEAN).to_numpy()
    compared = LEARNED if detectors.LEARNED in scores.columns else COMPARED
    by_detector = {name: _badness(scored, name) for name in compared}
    kinds = []
    for name in KINDS:
        of_kind = pairs.filter(pl.col("kind") == name)
        chosen = (scored["kind"] == name).to_numpy()
        against = chosen | ~wrong
        areas = {d: auroc(chosen[against], badness[against]) for d, badness in by_detector.items()}
        kinds.append(Kind(name, len(of_kind), int(of_kind["dropped"].sum()), areas))
    clean = pairs.filter(pl.col("kind") == CLEAN)
    return Evaluation(
        kinds=tuple(kinds),
        clean=len(clean),
        clean_dropped=int(clean["dropped"].sum()),
        auroc={d: auroc(wrong, badness) for d, badness in by_detector.items()},
        auprc={d: average_precision(wrong, badness) for d, badness in by_detector.items()},
        unscored=len(pairs) - len(scored),
    )


def auroc(wrong: npt.NDArray[np.bool_], badness: npt.NDArray[np.float64]) -> float | None:
    """Area under the ROC curve: Mann-Whitney's U over the number of (wrong, right) couples; ties count half.

    Args:
        wrong, badness: (n,); higher badness should mean wrong.

    Returns:
        None when there are no wrong or no right ones.
    """
    positives, negatives = int(wrong.sum()), int((~wrong).sum())
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(badness, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]  # mid-ranks from 1
    return float((ranks[wrong].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(wrong: npt.NDArray[np.bool_], badness: npt.NDArray[np.float64]) -> float | None:
    """Area under the precision-recall curve as the sum of precision x gain in recall, equal scores taken together.

    Returns:
        None when there are no wrong ones.
    """
    positives = int(wrong.sum())
    if not positives:
        return None
    values, inverse = np.unique(-badness, return_inverse=True)
    taken = np.cumsum(np.bincount(inverse, minlength=len(values)))
    hits = np.bincount(inverse, weights=wrong, minlength=len(values))
    return float((hits * np.cumsum(hits) / taken).sum() / positives)


def _badness(scored: pl.DataFrame, name: str) -> npt.NDArray[np.float64]:
    facts = detectors.facts(name)
    values = scored[facts.column].to_numpy().astype(np.float64)
    return values if facts.higher_is_worse else -values


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
