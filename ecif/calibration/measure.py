"""How well a score tells canaries from real pairs, and how sure that is.

Canaries are pairs whose caption is known to be wrong, because it was planted. Real pairs are of all sorts, and some of
them are wrong by nature: they count as real here, so that a perfect score stays below 1. For few mistakes that hardly
matters; for a share pi of natural mistakes that look like the canaries, an area of A against the right pairs is read as
(1 - pi) A + pi / 2 against the real ones.

Intervals are those of 95 %. The area under the ROC curve has the variance of DeLong et al. (1988), on the logit scale
so that it stays inside [0, 1]; the average precision has the logit interval of Boyd, Eng, Page (2013); shares have
Wilson's (1927).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

Z = 1.959963984540054  # of a normal distribution, 95 % lie within
SHARE = 0.05  # of canaries among all pairs, at which average precision is quoted, whatever was planted


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> list[float]:
        """Value, lower and upper end, six digits."""
        return [float(f"{part:.6g}") for part in (self.value, self.low, self.high)]

    @classmethod
    def from_json(cls, value: Any) -> Estimate:
        """What `to_json` gave.

        Raises:
            ValueError: it is not three numbers.
        """
        low_to_high = [float(part) for part in value]
        if len(low_to_high) != 3:
            raise ValueError(f"an estimate has a value and two ends, not {value!r}")
        return cls(*low_to_high)

    def percent(self) -> str:
        """For people: `69 % [47, 100]`."""
        return f"{100 * self.value:.0f} % [{100 * self.low:.0f}, {100 * self.high:.0f}]"

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def placements(canary: Array, real: Array) -> Array:
    """Share of the real pairs that rank better than each canary, ties counted half.

    Args:
        canary, real: badness, (C,) and (N,), both at least one; the higher the worse.

    Returns:
        (C,), whose mean is the area under the ROC curve.
    """
    ordered = np.sort(real)
    below = np.searchsorted(ordered, canary, "left") + np.searchsorted(ordered, canary, "right")
    return below / (2.0 * len(real))


def auroc(canary: Array, real: Array) -> Estimate:
    """Chance that a canary ranks worse than a real pair (ties half), with DeLong's interval on the logit scale.

    E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, Biometrics 44 (1988). Where every canary ranks worse than every
    real pair, or better, the variance says nothing; the open end is then that of a share of 1 in min(C, N) draws.
    """
    of_canaries, of_real = placements(canary, real), 1.0 - placements(real, canary)
    area = float(of_canaries.mean())
    variance = _variance(of_canaries) + _variance(of_real)
    least = 0.025 ** (1.0 / min(len(canary), len(real)))
    if area <= 0.0 or area >= 1.0 or variance <= 0.0:
        return Estimate(area, min(area, least if area > 0.5 else 0.0), max(area, 1.0 if area > 0.5 else 1.0 - least))
    return _on_logits(area, variance**0.5)


def _on_logits(value: float, error: float) -> Estimate:
    """A value strictly between 0 and 1, and its standard error."""
    logit, width = np.log(value / (1.0 - value)), Z * error / (value * (1.0 - value))
    low, high = (1.0 / (1.0 + np.exp(-(logit + side * width))) for side in (-1.0, 1.0))
    return Estimate(value, float(low), float(high))


def _variance(values: Array) -> float:
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.25


def auprc(canary: Array, real: Array, share: float = SHARE) -> Estimate:
    """Average precision if canaries were `share` of all pairs, equal scores taken together.

    The weight of a canary is set by `share`, so that kinds of different numbers, and runs that planted more or fewer,
    compare. The interval is the logit one of K. Boyd, K. H. Eng, C. D. Page, ECML 2013, for as many positives as there
    are canaries.
    """
    levels, inverse = np.unique(-np.concatenate([canary, real]), return_inverse=True)
    parts = inverse[: len(canary)], inverse[len(canary) :]
    hits, others = (np.bincount(part, minlength=len(levels)) / len(part) for part in parts)
    found = share * np.cumsum(hits)
    value = min(1.0, float((hits * found / (found + (1.0 - share) * np.cumsum(others))).sum()))
    if value >= 1.0:
        return Estimate(1.0, 0.025 ** (1.0 / len(canary)), 1.0)
    return _on_logits(value, (value * (1.0 - value) / len(canary)) ** 0.5)


def proportion(count: float, n: float, z: float = Z) -> Estimate:
    """A share of `n` draws, with the score interval of E. B. Wilson, JASA 22 (1927)."""
    p = count / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    return Estimate(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)))
