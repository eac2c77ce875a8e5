"""Means over seeds, and differences between variants of the same seeds, with 95 % intervals by Student's t.

A model of a seed starts from the same weights in every variant, so differences are taken seed by seed: what a lucky
start adds to both goes out. The intervals say how far the mean would move with other seeds (starts, orders of batches,
and random subsets), for this corpus, these scores and this evaluation set. How it would move with others they do not
say.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from ecif.calibration.measure import Estimate

LEVEL = 0.95
_POINTS = 200_001


def mean(values: Sequence[float]) -> Estimate:
    """Mean of n >= 2 values and mean +- t sd / sqrt(n), with n - 1 degrees of freedom.

    Raises:
        ValueError: fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"an interval needs two values, not {n}")
    centre = float(np.mean(values))
    half = quantile(n - 1) * float(np.std(values, ddof=1)) / n**0.5
    return Estimate(centre, centre - half, centre + half)


def difference(values: Sequence[float], others: Sequence[float]) -> Estimate:
    """Mean of the differences of values that belong together, with its interval."""
    return mean([a - b for a, b in zip(values, others, strict=True)])


@functools.cache
def quantile(freedom: int) -> float:
    """The t below which Student's distribution with these degrees of freedom has (1 + LEVEL) / 2 of its mass.

    With t = sqrt(freedom) tan(x) the density becomes cos(x)^(freedom - 1), up to a constant, on (-pi/2, pi/2); its
    integral from 0 is taken by the trapezoid rule.
    """
    x = np.linspace(0.0, np.pi / 2, _POINTS)
    density = np.cos(x) ** (freedom - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(freedom**0.5 * np.tan(np.interp(LEVEL * mass[-1], mass, x)))
