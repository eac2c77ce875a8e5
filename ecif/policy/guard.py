"""Shards and groups that lose far more than the rest: the sign of a broken download, or of a policy that hits a kind.

A part is an outlier when both hold, for the rate of the rest p, its own rate r of n pairs:

    the odds r / (1 - r) are more than 4 times p / (1 - p)                  it is far more,
    n KL(r || p) > log(10^6 parts)                                          and not by chance

p is the median rate of the parts or the rate of all others, whichever is smaller, but at least a quarter of the overall
rate. The second is Chernoff's bound of the binomial tail (Hoeffding 1963, theorem 1): a false alarm among all parts is
rarer than one in a million if pairs went independently. They do not, shards differ; the odds ratio is what makes room
for that. The trade-off: a shard must stand out by much, and fewer than four shards are never compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

ODDS = 4.0
RARITY = 1e6
FEWEST_SHARDS = 4
FEWEST_GROUPS = 2


@dataclass(frozen=True, slots=True)
class Part:
    """A shard or a group: its name (None: pairs whose group is unknown), pairs, and how many of them go."""

    name: str | None
    pairs: int
    gone: int

    @property
    def rate(self) -> float:
        """The share that goes."""
        return self.gone / self.pairs if self.pairs else 0.0


@dataclass(frozen=True, slots=True)
class Outlier:
    """A part that loses far more than the rest.

    Attributes:
        kind: shard or group.
        expected: the rate that it was compared with.
    """

    kind: str
    name: str | None
    pairs: int
    gone: int
    expected: float

    @property
    def words(self) -> str:
        """For people: shard 00017 loses 92.0% of 10,000 pairs, the rest 9.8%."""
        name = "without a value" if self.name is None else self.name
        rate = self.gone / self.pairs
        return f"{self.kind} {name} loses {rate:.1%} of {self.pairs:,} pairs, the rest {self.expected:.1%}"


def outliers(parts: Sequence[Part], kind: str, fewest: int) -> list[Outlier]:
    """The parts that lose far more than the rest, the worst first.

    Args:
        kind: what to call them.
        fewest: fewer parts with pairs than this are not compared.
    """
    parts = [part for part in parts if part.pairs]
    pairs, gone = sum(part.pairs for part in parts), sum(part.gone for part in parts)
    if len(parts) < max(2, fewest) or not gone:
        return []
    middle = median(part.rate for part in parts)
    found = []
    for part in parts:
        others = (gone - part.gone) / (pairs - part.pairs)
        usual = max(min(middle, others), gone / pairs / 4)
        if _odds(part.rate) > ODDS * _odds(usual) and part.pairs * _divergence(part.rate, usual) > math.log(
            RARITY * len(parts)
        ):
            found.append(Outlier(kind, part.name, part.pairs, part.gone, usual))
    return sorted(found, key=lambda one: (-one.gone / one.pairs, one.name or ""))


def _odds(rate: float) -> float:
    return math.inf if rate >= 1 else rate / (1 - rate)


def _divergence(r: float, p: float) -> float:
    """KL(r || p) of two coins, in nats."""
    if p >= 1:
        return 0.0
    own = r * math.log(r / p) if r else 0.0
    other = (1 - r) * math.log((1 - r) / (1 - p)) if r < 1 else 0.0
    return own + other
