"""Which share of the corpus is wrong by nature: a mixture proportion, from real pairs and canaries alone.

If natural mistakes score as canaries do, the real pairs beyond any cut are a mixture,

    F_real(cut) = pi F_canary(cut) + (1 - pi) F_right(cut)        F: share that scores worse than the cut

so pi <= F_real / F_canary at every cut, and pi is that ratio where no right pair is left. Two estimates rest on it:

*   Smallest ratio over a grid of cuts, each with its binomial bounds, taken where the upper bound is smallest (the best
    bin of Garg, Wu, Smola, Balakrishnan, Lipton, 2111.00980, after Blanchard, Lee, Scott, JMLR 11, 2010). Its upper
    bound asks nothing of the right pairs. Its value is too high where right pairs reach far among the mistakes.
*   The ratio of densities follows pi + exp(a + b s): right pairs thin out exponentially along the score, as they do for
    Gaussians of equal width (the modified logistic regression of Jaskie, Elkan, Spanias, 2019). Takes the right pairs
    out of the tail, and is too low where mistakes spread wider than that.

The estimate is the first one, its interval reaches from the lower of both lower ends to the upper bound of the first:
wide where canaries and right pairs are hard to tell apart, because then the corpus does not say. What neither can know
is whether natural mistakes score as canaries do. Subtler ones are undercounted; grosser ones overcounted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecif.calibration.measure import Array, Estimate, proportion

# Of canaries beyond the cut: not the most extreme of them alone, whose like nature may not have. Seventeen cuts, much
# alike: bounds of 99.5 % each hold together in 95 of 100 corpora.
_TAILS = np.linspace(0.2, 1.0, 17)
_Z_CUTS = 2.807
_Z_PROFILE = 1.92  # half the 95 % quantile of chi-squared with one degree of freedom
_BINS = 200
_SHARES = np.concatenate([[0.0], np.geomspace(1e-4, 1.0, 81)])


@dataclass(frozen=True, slots=True)
class Thinning:
    """The ratio of densities, real over canary, along a score s: share + exp(a + b s)."""

    share: float
    a: float
    b: float


def share_of_mistakes(canary: Array, real: Array) -> Estimate:
    """Share of natural mistakes among the real pairs, if they score as the canaries do.

    Args:
        canary, real: badness, (C,) and (N,); canaries that the model was not fitted on.

    Returns:
        The share, and a 95 % interval under the assumption of the module.
    """
    ordered_canary, ordered_real = np.sort(canary), np.sort(real)
    best = Estimate(1.0, 0.0, 1.0)
    for tail in _TAILS:
        cut = ordered_canary[int((1.0 - tail) * len(canary))]
        of_canaries = proportion(_beyond(ordered_canary, cut), len(canary), _Z_CUTS)
        of_real = proportion(_beyond(ordered_real, cut), len(real), _Z_CUTS)
        high = of_real.high / of_canaries.low if of_canaries.low > 0 else 1.0
        if high < best.high:
            best = Estimate(of_real.value / of_canaries.value, of_real.low / of_canaries.high, high)
    low, _ = _profile(*_binned(canary, real))
    return Estimate(best.value, min(low, best.low), best.high)


def thinning(canary: Array, real: Array, share: float) -> Thinning:
    """How right pairs thin out along the score, with the share of mistakes given: maximum likelihood."""
    s, hits, others = _binned(canary, real)
    centre, width = float(s.mean()), float(s.std()) or 1.0
    _, a, b = _fitted(share, (s - centre) / width, hits, others, 0.0, -1.0)
    return Thinning(share, a - b * centre / width, b / width)


def _beyond(ordered: Array, cut: float) -> int:
    return len(ordered) - int(np.searchsorted(ordered, cut, "left"))


def _binned(canary: Array, real: Array) -> tuple[Array, Array, Array]:
    """Mean score, canaries and real pairs of bins that hold about equally much of both."""
    both = np.concatenate([np.quantile(part, np.linspace(0, 1, _BINS // 2 + 1)[1:-1]) for part in (canary, real)])
    edges = np.unique(both)
    where = [np.searchsorted(edges, part) for part in (canary, real)]
    n = len(edges) + 1
    hits, others = (np.bincount(place, minlength=n).astype(np.float64) for place in where)
    sums = np.bincount(where[0], canary, n) + np.bincount(where[1], real, n)
    filled = hits + others > 0
    return sums[filled] / (hits + others)[filled], hits[filled], others[filled]


def _profile(s: Array, hits: Array, others: Array) -> tuple[float, float]:
    """Ends of the 95 % profile-likelihood interval of the share."""
    s = (s - s.mean()) / (s.std() or 1.0)
    a, b = 0.0, -1.0
    found = []
    for share in _SHARES:
        likelihood, a, b = _fitted(float(share), s, hits, others, a, b)
        found.append(likelihood)
    inside = np.flatnonzero(np.array(found) > max(found) - _Z_PROFILE)
    # The ends of the grid's cells, not their middles: the interval is at least what it should be.
    first, last = max(0, int(inside[0]) - 1), min(len(_SHARES) - 1, int(inside[-1]) + 1)
    return float(_SHARES[first]), float(_SHARES[last])


def _fitted(share: float, s: Array, hits: Array, others: Array, a: float, b: float) -> tuple[float, float, float]:
    """Log likelihood and (a, b) that maximise it: Fisher scoring with halved steps.

    A pair of a bin is real with odds kappa r, r = share + exp(a + b s), kappa = real pairs over canaries.
    """
    kappa = others.sum() / hits.sum()
    n = hits + others

    def terms(a: float, b: float) -> tuple[Array, Array, float]:
        thin = np.exp(np.clip(a + b * s, -60.0, 60.0))
        odds = kappa * (share + thin)
        p = odds / (1.0 + odds)
        return p, thin / (share + thin), float((others * np.log(odds) - n * np.log1p(odds)).sum())

    p, slope, likelihood = terms(a, b)
    for _ in range(100):
        gradient, weight = (others - n * p) * slope, n * p * (1.0 - p) * slope**2
        first = np.array([gradient.sum(), (gradient * s).sum()])
        second = np.array([[weight.sum(), (weight * s).sum()], [(weight * s).sum(), (weight * s * s).sum()]])
        second += 1e-9 * (1.0 + np.trace(second)) * np.eye(2)
        step = np.linalg.solve(second, first)
        for _ in range(30):
            new_a, new_b = a + float(step[0]), b + float(step[1])
            new_p, new_slope, new = terms(new_a, new_b)
            if new >= likelihood:
                break
            step = step / 2
        gain = new - likelihood
        if gain < 0:
            break
        a, b, p, slope, likelihood = new_a, new_b, new_p, new_slope, new
        if gain < 1e-9:
            break
    return likelihood, a, b
