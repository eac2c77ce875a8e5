"""Which weights the learned detector gets: a logistic regression of canaries against real pairs.

Both classes weigh the same, and so do all kinds of canaries. Three things keep the sum from being worse than a single
score on mistakes that no canary is like. No weight is negative, but that of `negative_influence`: what a pair does as a
negative of others has no known sense for its own caption (docs/log.md), so canaries decide which. One column, the best
single score by the canaries, is free; the weights of all others are penalised (`w^2`), so that the model departs from
that score only as far as canaries pay for it. And the penalty is the strongest that is within one standard error of
the best, an infinite one, the single score itself, among them (Breiman et al. 1984). All is chosen out of fold, by
the canaries. `clip_score`, and then the other columns in their order, is the best single score as long as no other is
better by a standard error.

The trade-off: where two columns are worth most as a difference, as when one holds what disturbs the other, the sum
cannot use it. With signs free the canaries of the demo were found better and its mistakes worse (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ecif.calibration.learned import Features, Model
from ecif.calibration.measure import Array, placements

PENALTIES = (None, 1.0, 0.1, 0.01, 0.001, 0.0001)
"""Of the mean loss, strongest first; None: only the best single score."""
EITHER_WAY = frozenset({"negative_influence"})
"""Columns whose weight may have either sign."""


@dataclass(frozen=True, slots=True)
class Learned:
    """A detector with what it took to choose it.

    Attributes:
        model: fitted on everything. folds: weights of each fold's model, in the order of the model's columns.
        canary, real: misalignment out of fold, (C,) and (N,).
        areas: out of fold AUROC by penalty, in the order of `PENALTIES`.
    """

    model: Model
    weights: Mapping[str, tuple[float, ...]]
    canary: Array
    real: Array
    areas: tuple[float, ...]


def learn(of: Features) -> Learned:
    """Fit the detector; its penalty and its base are chosen out of fold.

    The model that decides is the one fitted on everything, because a pair's score must not depend on the shard it lies
    in; with some ten weights and thousands of pairs, what a pair adds to the model it is scored with is lost in
    rounding, and real pairs enter without a label anyway. Measures are taken out of fold all the same.
    """
    base = _base(of)
    found = [_out_of_fold(of, base, penalty) for penalty in PENALTIES]
    placed = [_placements(of, canary, real) for canary, real, _ in found]
    share = of.of_canaries
    areas = [float((share * part).sum()) for part in placed]
    chosen = _simplest(share, placed)
    canary, real, folds = found[chosen]
    intercept, fitted = fit(of, base, PENALTIES[chosen], np.ones(len(canary), bool), np.ones(len(real), bool))
    if not fitted.any():
        fitted[base] = 1.0  # no column ranks canaries as worse: the one that is free ranks alone
    taken = of.keep([name for name, weight in zip(of.columns, fitted, strict=True) if weight])
    numbers = tuple(fitted[fitted != 0].tolist())
    model = Model(
        taken.columns,
        taken.signs,
        taken.centres,
        taken.scales,
        numbers,
        intercept,
        of.columns[base],
        PENALTIES[chosen],
    )
    weights = np.stack([fitted, *folds]).T.tolist()
    by_column = {name: tuple(row) for name, row in zip(of.columns, weights, strict=True)}
    return Learned(model, by_column, canary, real, tuple(areas))


def _base(of: Features) -> int:
    """The single score that finds canaries best; of those within one standard error the first, as `clip_score` is."""
    known = [j for j, name in enumerate(of.columns) if name not in EITHER_WAY]
    return known[_simplest(of.of_canaries, [placements(of.canary_CJ[:, j], of.real_NJ[:, j]) for j in known])]


def _simplest(share: Array, placed: Sequence[Array]) -> int:
    """The first of some scores whose area is within one standard error of the best; its difference is a paired one.

    Args:
        share: weights of the canaries, (C,). placed: places of the canaries by each score, (C,), the simplest first.
    """
    best = max(placed, key=lambda part: float((share * part).sum()))
    gains = [best - part for part in placed]
    means = [float((share * gain).sum()) for gain in gains]
    errors = [float((share**2 * (gain - mean) ** 2).sum()) ** 0.5 for gain, mean in zip(gains, means, strict=True)]
    return next(n for n, (mean, error) in enumerate(zip(means, errors, strict=True)) if mean <= error)


def _placements(of: Features, canary: Array, real: Array) -> Array:
    """Places of the canaries among the real pairs of their fold: scores of two folds do not compare exactly."""
    found = np.empty(len(canary))
    for fold in np.unique(of.folds[0]):
        mine = of.folds[0] == fold
        among = real[of.folds[1] == fold]
        found[mine] = placements(canary[mine], among if len(among) else real)
    return found


def _out_of_fold(of: Features, base: int, penalty: float | None) -> tuple[Array, Array, list[Array]]:
    canary, real = np.empty(len(of.canary_CJ)), np.empty(len(of.real_NJ))
    weights = []
    for fold in np.unique(np.concatenate(of.folds)):
        of_canaries, of_real = (part == fold for part in of.folds)
        intercept, w = fit(of, base, penalty, ~of_canaries, ~of_real)
        canary[of_canaries] = intercept + of.canary_CJ[of_canaries] @ w
        real[of_real] = intercept + of.real_NJ[of_real] @ w
        weights.append(w)
    return canary, real, weights


def fit(
    of: Features, base: int, penalty: float | None, canary: npt.NDArray[np.bool_], real: npt.NDArray[np.bool_]
) -> tuple[float, Array]:
    """Logistic regression with most weights not negative, by Newton steps, each a bounded quadratic problem.

    Args:
        base: number of the column whose weight is free of the penalty. penalty: of the squares of the others; None:
            they are 0.
        canary, real: rows to fit on.

    Returns:
        The intercept and the weights, (J,).
    """
    x = np.concatenate([of.canary_CJ[canary], of.real_NJ[real]])
    x = np.concatenate([np.ones((len(x), 1)), x], axis=1)
    y = np.concatenate([np.ones(int(canary.sum())), np.zeros(int(real.sum()))])
    shares = of.of_canaries[canary]
    mass = np.concatenate([0.5 * shares / shares.sum(), np.full(int(real.sum()), 0.5 / real.sum())])
    j = x.shape[1]
    ridge = np.full(j, penalty or 0.0)
    ridge[[0, base + 1]] = 0.0
    chosen = {0, base + 1} if penalty is None else set(range(j))
    free = [0, *(place for place, name in enumerate(of.columns, 1) if name in EITHER_WAY)]
    w = np.zeros(j)
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ w, -60.0, 60.0)))
        gradient = x.T @ (mass * (p - y)) + ridge * w
        # The floor keeps the step finite where the classes do not overlap.
        curvature = (x * (mass * np.maximum(p * (1.0 - p), 1e-4))[:, None]).T @ x + np.diag(ridge + 1e-9)
        new = _not_negative(curvature, curvature @ w - gradient, chosen, free)
        moved = float(np.abs(new - w).max())
        w = new
        if moved < 1e-6:
            break
    return float(w[0]), w[1:]


def _not_negative(a: Array, b: Array, chosen: Set[int], free: Sequence[int]) -> Array:
    """Minimum of w^T a w / 2 - b^T w with weights >= 0 but for the free ones, and 0 outside `chosen`.

    The active-set method of C. L. Lawson and R. J. Hanson, Solving Least Squares Problems (1974), chapter 23.
    """
    w = np.zeros(len(b))
    inside = [j for j in free if j in chosen]
    w[inside] = np.linalg.solve(a[np.ix_(inside, inside)], b[inside])
    for _ in range(3 * len(b)):
        slope = b - a @ w
        outside = [j for j in sorted(chosen) if j not in inside]
        if not outside or slope[enters := max(outside, key=slope.__getitem__)] <= 1e-12:
            break
        inside.append(enters)
        while True:
            solved = np.linalg.solve(a[np.ix_(inside, inside)], b[inside])
            below = [place for place, j in enumerate(inside) if j not in free and solved[place] <= 0]
            if not below:
                w[inside] = solved
                break
            # As far towards the solution as all weights stay, and without the one that ends there.
            steps = {place: w[inside[place]] / (w[inside[place]] - solved[place]) for place in below}
            leaves = min(steps, key=steps.__getitem__)
            w[inside] += steps[leaves] * (solved - w[inside])
            w[inside[leaves]] = 0.0
            del inside[leaves]
    return w
