"""Precision and recall of any cut, from the share of mistakes and what lies beyond the cut.

    recall(cut)    = F_canary(cut)
    precision(cut) = share x F_canary(cut) / F_real(cut)        F: share that scores worse than the cut

(Elkan and Noto, KDD 2008, for labelled positives among unlabelled pairs). Both hold as far as natural mistakes score
like the mean of the kinds of canaries. The interval of the product comes from those of its factors (MOVER: Zou and
Donner, Statistics in Medicine 27, 2008), which are taken as independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecif.calibration.measure import Array, Estimate, proportion

_CUTS = 64  # of real pairs, and as many of canaries


@dataclass(frozen=True, slots=True)
class Curve:
    """How much lies beyond each of some cuts through one score.

    Attributes:
        cuts: values of the score, worst first. real: share of the real pairs that score worse or the same, by cut.
        canaries: the same of the canaries, by kind. pairs: real pairs behind it. planted: canaries by kind.
    """

    cuts: tuple[float, ...]
    real: tuple[float, ...]
    canaries: Mapping[str, tuple[float, ...]]
    pairs: int
    planted: Mapping[str, int]
    higher_is_worse: bool

    @classmethod
    def of(cls, canaries: Mapping[str, Array], real: Array, *, higher_is_worse: bool) -> Curve:
        """The curve of a score.

        Args:
            canaries: values of the score by kind. real: (N,).
        """
        sign = 1.0 if higher_is_worse else -1.0
        both = np.concatenate(list(canaries.values()))
        tails = np.geomspace(1.0 / len(real), 1.0, _CUTS)
        of_real = np.quantile(sign * real, 1.0 - tails)
        of_canaries = np.quantile(sign * both, 1.0 - np.linspace(0.0, 1.0, _CUTS))
        levels = np.unique(np.concatenate([of_real, of_canaries]))[::-1]
        shares = {name: _beyond(sign * values, levels) for name, values in canaries.items()}
        cuts = tuple((sign * levels).tolist())
        planted = {name: len(values) for name, values in canaries.items()}
        return cls(cuts, _beyond(sign * real, levels), shares, len(real), planted, higher_is_worse)

    def dropped(self, cut: float) -> Estimate:
        """Share of the real pairs that a cut drops."""
        return proportion(self._at(self.real, cut) * self.pairs, self.pairs)

    def recall(self, cut: float, kind: str | None = None) -> Estimate:
        """Share of the canaries beyond a cut: of one kind, or the mean of all kinds."""
        if kind is not None:
            return proportion(self._at(self.canaries[kind], cut) * self.planted[kind], self.planted[kind])
        mean = float(np.mean([self._at(shares, cut) for shares in self.canaries.values()]))
        n = sum(self.planted.values())
        return proportion(mean * n, n)

    def precision(self, cut: float, share: Estimate) -> Estimate:
        """Share of natural mistakes among the pairs that a cut drops.

        Args:
            share: of natural mistakes in the corpus (`prior.share_of_mistakes`).
        """
        dropped, found = self.dropped(cut), self.recall(cut)
        if dropped.value <= 0 or found.value <= 0 or share.value <= 0:
            return Estimate(0.0, 0.0, 1.0)
        value = share.value * found.value / dropped.value
        factors = (_logs(share), _logs(found), _logs(_inverse(dropped)))
        low = value * math.exp(-math.hypot(*(below for below, _ in factors)))
        high = value * math.exp(math.hypot(*(above for _, above in factors)))
        return Estimate(min(1.0, value), min(1.0, low), min(1.0, high))

    def cut_for(self, precision: float, share: Estimate) -> float | None:
        """The loosest cut of the curve whose estimated precision is at least this; None: no cut reaches it."""
        enough = [cut for cut in self.cuts if self.precision(cut, share).value >= precision]
        return enough[-1] if enough else None

    def _at(self, shares: tuple[float, ...], cut: float) -> float:
        """Between two cuts of the curve the share is interpolated."""
        sign = 1.0 if self.higher_is_worse else -1.0
        levels = sign * np.array(self.cuts)
        return float(np.interp(sign * cut, levels[::-1], shares[::-1], left=1.0, right=0.0))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "cuts": list(self.cuts),
            "real": list(self.real),
            "canaries": {name: list(shares) for name, shares in self.canaries.items()},
            "pairs": self.pairs,
            "planted": dict(self.planted),
            "higher_is_worse": self.higher_is_worse,
        }

    @classmethod
    def from_json(cls, value: Any) -> Curve:
        """What `to_json` gave.

        Raises:
            KeyError, TypeError: it is not a curve.
        """
        return cls(
            tuple(value["cuts"]),
            tuple(value["real"]),
            {name: tuple(shares) for name, shares in value["canaries"].items()},
            value["pairs"],
            dict(value["planted"]),
            value["higher_is_worse"],
        )


def _beyond(badness: Array, levels: Array) -> tuple[float, ...]:
    ordered = np.sort(badness)
    return tuple((1.0 - np.searchsorted(ordered, levels, "left") / len(ordered)).tolist())


def _logs(of: Estimate) -> tuple[float, float]:
    """Distances of the ends on the scale of logarithms."""
    log: Callable[[float], float] = math.log
    below = log(of.value / of.low) if of.low > 0 else math.inf
    return below, log(of.high / of.value)


def _inverse(of: Estimate) -> Estimate:
    return Estimate(1.0 / of.value, 1.0 / of.high, 1.0 / of.low if of.low > 0 else math.inf)
