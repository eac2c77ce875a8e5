"""How well a score finds the wrong pairs, and how sure that is: paired bootstrap over the pairs.

All scores of a corpus are resampled with the same draws, so the interval of a difference to a reference score is that
of the difference, not of two unrelated numbers.
"""

from __future__ import annotations

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
    """A difference of AUROC with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        sure = " *" if self.low > 0 or self.high < 0 else ""
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]{sure}"


class Judge:
    """One half of a corpus."""

    def __init__(self, wrong: npt.NDArray[np.bool_], kinds: npt.NDArray[np.str_], rows: npt.NDArray[np.bool_]) -> None:
        self.rows = np.flatnonzero(rows)
        self.wrong, self.kinds = wrong[self.rows], kinds[self.rows]
        self._known: dict[bytes, Array] = {}

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
        found = self._resampled(badness) - self._resampled(reference)
        low, high = np.quantile(found, [0.025, 0.975])
        return Difference(self.auroc(badness) - self.auroc(reference), float(low), float(high))

    @cached_property
    def _weights(self) -> Array:
        """How often each pair is drawn, (draws, n)."""
        n = len(self.rows)
        return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(np.float64)

    def _resampled(self, badness: Array) -> Array:
        """AUROC in every draw, (draws,); the references are asked for again and again."""
        name = badness.tobytes()
        if name not in self._known:
            self._known[name] = self._resample(badness)
        return self._known[name]

    def _resample(self, badness: Array) -> Array:
        """Ties count half."""
        _, groups = np.unique(badness[self.rows], return_inverse=True)
        order = np.argsort(groups, kind="stable")
        starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
        drawn, wrong = self._weights[:, order], self.wrong[order]
        wrong_RG = np.add.reduceat(drawn * wrong, starts, axis=1)
        right_RG = np.add.reduceat(drawn * ~wrong, starts, axis=1)
        below_RG = np.cumsum(right_RG, axis=1) - right_RG / 2
        return (wrong_RG * below_RG).sum(1) / (wrong_RG.sum(1) * right_RG.sum(1))
