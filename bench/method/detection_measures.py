"""How well a score finds the wrong pairs, and how sure that is: paired bootstrap over the pairs.

All scores of a corpus are resampled with the same draws, so the interval of a difference to a reference score is that
of the difference, not of two unrelated numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ecif.demo.evaluation import auroc, average_precision

Array = npt.NDArray[np.float64]
DRAWS = 1000
FRACTIONS = (0.01, 0.05, 0.1)


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of two measures with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        sure = " *" if self.low > 0 or self.high < 0 else ""
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]{sure}"


@dataclass(frozen=True, slots=True)
class Draws:
    """Pairs in R draws at G values of a score, the worst first: (R, G) each."""

    wrong_RG: npt.NDArray[np.float32]
    right_RG: npt.NDArray[np.float32]


class Judge:
    """One half of a corpus."""

    def __init__(self, wrong: npt.NDArray[np.bool_], kinds: npt.NDArray[np.str_], rows: npt.NDArray[np.bool_]) -> None:
        self.rows = np.flatnonzero(rows)
        self.wrong, self.kinds = wrong[self.rows], kinds[self.rows]
        self._known: dict[bytes, Draws] = {}

    def auroc(self, badness: Array, kind: str | None = None) -> float:
        """Against all right pairs; of one kind of mistake, or of all."""
        chosen = ~self.wrong | (self.kinds == kind) if kind else np.ones(len(self.wrong), bool)
        return auroc(self.wrong[chosen], badness[self.rows][chosen]) or 0.0

    def auprc(self, badness: Array) -> float:
        """Average precision."""
        return average_precision(self.wrong, badness[self.rows]) or 0.0

    def precision(self, badness: Array, fraction: float) -> float:
        """Share of wrong pairs among the worst `fraction` of all."""
        count = max(1, round(fraction * len(self.rows)))
        return float(self.wrong[np.argsort(-badness[self.rows], kind="stable")[:count]].mean())

    def difference(self, badness: Array, reference: Array) -> Difference:
        """AUROC less that of the reference."""
        return self._paired(badness, reference, _auroc, self.auroc)

    def difference_auprc(self, badness: Array, reference: Array) -> Difference:
        """Average precision less that of the reference."""
        return self._paired(badness, reference, _auprc, self.auprc)

    def difference_precision(self, badness: Array, reference: Array, fraction: float) -> Difference:
        """Precision of the worst `fraction` less that of the reference."""

        def of(draws: Draws) -> Array:
            return _precision(draws, fraction)

        return self._paired(badness, reference, of, lambda values: self.precision(values, fraction))

    def _paired(
        self, badness: Array, reference: Array, resampled: Callable[[Draws], Array], measure: Callable[[Array], float]
    ) -> Difference:
        found = resampled(self._drawn(badness)) - resampled(self._drawn(reference))
        low, high = np.quantile(found, [0.025, 0.975])
        return Difference(measure(badness) - measure(reference), float(low), float(high))

    @cached_property
    def _weights(self) -> Array:
        """How often each pair is drawn, (draws, n)."""
        n = len(self.rows)
        return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(np.float64)

    def _drawn(self, badness: Array) -> Draws:
        """Wrong and right pairs in every draw, at each value of the score; asked for again and again."""
        name = badness.tobytes()
        if name not in self._known:
            _, groups = np.unique(-badness[self.rows], return_inverse=True)
            order = np.argsort(groups, kind="stable")
            starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
            drawn, wrong = self._weights[:, order], self.wrong[order]
            parts = (np.add.reduceat(drawn * chosen, starts, axis=1) for chosen in (wrong, ~wrong))
            self._known[name] = Draws(*(part.astype(np.float32) for part in parts))
        return self._known[name]


def _auroc(draws: Draws) -> Array:
    """Ties count half."""
    wrong, right = draws.wrong_RG.astype(np.float64), draws.right_RG.astype(np.float64)
    total = right.sum(1, keepdims=True)
    better = total - np.cumsum(right, axis=1) + right / 2
    return np.asarray((wrong * better).sum(1) / (wrong.sum(1) * total[:, 0]))


def _auprc(draws: Draws) -> Array:
    """Average precision; pairs that tie come together."""
    wrong, right = draws.wrong_RG.astype(np.float64), draws.right_RG.astype(np.float64)
    found, taken = np.cumsum(wrong, axis=1), np.cumsum(wrong + right, axis=1)
    return np.asarray((wrong * found / np.maximum(taken, 1.0)).sum(1) / wrong.sum(1))


def _precision(draws: Draws, fraction: float) -> Array:
    """Of the pairs that tie at the end of the fraction, an equal share of the wrong and of the right ones."""
    wrong, right = draws.wrong_RG.astype(np.float64), draws.right_RG.astype(np.float64)
    every = wrong + right
    count = max(1, round(fraction * every[0].sum()))
    before = np.cumsum(every, axis=1) - every
    part = np.clip((count - before) / np.maximum(every, 1.0), 0.0, 1.0)
    return np.asarray((wrong * part).sum(1) / count)
