"""Isolation forest (Liu, Ting, Zhou 2008, ICDM): points that few random cuts separate from a sample are anomalies.

A tree splits a small random sample by a random coordinate at a random value between the smallest and the largest, until
points are alone or the depth is log2 of the sample. A point's score is 2^(-E[path length] / c), with c the mean path
length of an unsuccessful search among the sample. Written here because the compute core depends on torch and numpy
alone; scikit-learn's forest is the oracle of its test.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

TREES = 100
SAMPLE = 256


def anomaly(points_NK: Tensor, *, seed: int, trees: int = TREES, sample: int = SAMPLE) -> Tensor:
    """Anomaly scores in (0, 1), (N,), higher for points that are easier to isolate; ordinary ones are near 1/2.

    Args:
        points_NK: finite. Trees are grown on `sample` of them (all, if there are fewer), drawn without replacement.
    """
    points = points_NK.detach().cpu().numpy()
    generator = np.random.default_rng(seed)
    sample = min(sample, len(points))
    depth = math.ceil(math.log2(max(sample, 2)))
    total_N = np.zeros(len(points))
    for _ in range(trees):
        drawn = generator.choice(len(points), sample, replace=False)
        _measure(points, points[drawn], np.arange(len(points)), 0, depth, total_N, generator)
    score_N = np.exp2(-total_N / trees / max(_mean_path(sample), 1.0))
    return torch.from_numpy(score_N).to(points_NK.device)


def _measure(
    points: np.ndarray,
    grown: np.ndarray,
    rows: np.ndarray,
    level: int,
    depth: int,
    total_N: np.ndarray,
    generator: np.random.Generator,
) -> None:
    """Grow the subtree of the sample points `grown`, and add the path lengths of the points that fall into it."""
    low, high = grown.min(0), grown.max(0)
    open_axes = np.flatnonzero(high > low)
    if level == depth or len(grown) == 1 or not len(open_axes):
        total_N[rows] += level + _mean_path(len(grown))
        return
    axis = generator.choice(open_axes)
    cut = generator.uniform(low[axis], high[axis])
    # The largest value never goes left, nor the smallest right, so neither side of the sample is empty.
    cut = min(max(cut, low[axis]), np.nextafter(high[axis], low[axis]))
    grown_left, rows_left = grown[:, axis] <= cut, points[rows, axis] <= cut
    _measure(points, grown[grown_left], rows[rows_left], level + 1, depth, total_N, generator)
    _measure(points, grown[~grown_left], rows[~rows_left], level + 1, depth, total_N, generator)


def _mean_path(n: int) -> float:
    """Mean length of an unsuccessful search in a binary search tree of n points."""
    if n <= 2:
        return float(n - 1)
    return 2 * (math.log(n - 1) + np.euler_gamma) - 2 * (n - 1) / n
