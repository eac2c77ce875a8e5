"""How far two samples of one score differ: the population stability index, and the Kolmogorov-Smirnov distance.

    PSI  sum of (q - p) ln(q / p) over ten bins of equal reference mass, and one for pairs without a score
    KS   largest distance of the two distribution functions, at a hundred quantiles of the reference

By convention a population stability index (PSI) below 0.1 is no change and one above 0.25 a large one. With n and m
pairs and no change at all, n m / (n + m) times the index is about chi-squared; what chance explains is added to the
threshold, so that a handful of pairs never counts as drift.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

QUANTILES = 100
BINS = 10
# A bin that is empty on one side: half a pair stands in it.
_HALF = 0.5
# Standard deviations of chance that are granted.
_CHANCE = 3.0


@dataclass(frozen=True, slots=True)
class Reference:
    """Distribution of one score.

    Attributes:
        edges: rising quantiles, float. counts: pairs up to the first edge, between each two, above the last.
        unscored: pairs without a score.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    unscored: int


@dataclass(frozen=True, slots=True)
class Drift:
    """New shards held against the reference.

    Attributes:
        column: the score. shards, pairs, unscored: of the new shards; unscored are among the pairs.
        reference_pairs: pairs of the reference.
        psi, ks: see above; ks is 0 where nothing was scored.
        limit: what psi has to exceed: the threshold, and what chance explains.
    """

    column: str
    shards: int
    pairs: int
    unscored: int
    reference_pairs: int
    psi: float
    ks: float
    limit: float

    @property
    def drifted(self) -> bool:
        """Whether the new shards are of another kind."""
        return self.psi > self.limit

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the verdict."""
        return {**asdict(self), "drifted": self.drifted}

    def headline(self) -> str:
        """The finding in a sentence."""
        verdict = "have drifted" if self.drifted else "are as before"
        return (
            f"the {self.column} of {self.pairs:,} new pairs {verdict}: stability index {self.psi:.3f} "
            f"(limit {self.limit:.3f}), largest distance {self.ks:.3f}"
        )


def compare(
    reference: Reference, counts: npt.NDArray[np.int64], unscored: int, *, column: str, shards: int, threshold: float
) -> Drift:
    """The numbers.

    Args:
        counts: of the new pairs, in the bins of the reference. unscored: new pairs without a score.
        threshold: of the population stability index, for infinitely many pairs.
    """
    before, after = np.array(reference.counts, np.float64), counts.astype(np.float64)
    n, m = before.sum() + reference.unscored, after.sum() + unscored
    groups = _groups(before)
    p = np.append(np.bincount(groups, before), reference.unscored)
    q = np.append(np.bincount(groups, after), unscored)
    used = (p > 0) | (q > 0)
    # Every bin that anything lies in gets as much as half a pair of either side.
    p, q = np.maximum(p[used], _HALF) / n, np.maximum(q[used], _HALF) / m
    psi = float(((q - p) * np.log(q / p)).sum())
    free = max(1, int(used.sum()) - 1)
    chance = (free + _CHANCE * math.sqrt(2 * free)) * (1 / n + 1 / m)
    ks = 0.0
    if before.sum() and after.sum():
        ks = float(np.abs(before.cumsum() / before.sum() - after.cumsum() / after.sum()).max())
    return Drift(column, shards, int(m), unscored, int(n), psi, ks, threshold + float(chance))


def describe(values: npt.NDArray[np.float32], unscored: int) -> Reference:
    """The reference of one score.

    Args:
        values: finite scores, (n,). unscored: pairs without one.
    """
    edges: tuple[float, ...] = ()
    if values.size:
        inner = np.quantile(values.astype(np.float64), np.arange(1, QUANTILES) / QUANTILES, method="lower")
        edges = tuple(float(edge) for edge in np.unique(inner))
    return Reference(edges, tuple(int(count) for count in binned(values, edges)), unscored)


def binned(values: npt.NDArray[np.float32], edges: Sequence[float]) -> npt.NDArray[np.int64]:
    """How many values lie in each bin: up to the first edge, between each two, above the last."""
    places = np.searchsorted(np.array(edges, np.float64), values.astype(np.float64), side="left")
    return np.bincount(places, minlength=len(edges) + 1)


def _groups(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """For each bin the number of its group: about BINS groups of equal mass, rising."""
    total = counts.sum()
    if not total:
        return np.zeros(len(counts), np.int64)
    middle = (counts.cumsum() - counts / 2) / total
    return np.minimum((middle * BINS).astype(np.int64), BINS - 1)
