"""How scores are distributed: quantiles from a sketch of fixed size, and the axis of a histogram that shows the bulk.

Influence has long tails: an axis from the lowest to the highest score would put nearly all pairs into one bar. So the
axis follows quantiles, the page says how many pairs it leaves out, and one edge of the bars lies exactly at the cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ecif.radix import BINS, from_image, image, locate

BARS = 60
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
_OUTER, _INNER, _SPREAD = 0.001, 0.05, 6.0  # what the axis of the histogram shows, see `axis_range`


class Sketch:
    """Count, extremes and quantiles of finite float32 values; a quantile is off by 0.4 % at most."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, dtype=np.int64)
        self.count = 0
        self.smallest, self.largest = math.inf, -math.inf

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Take in finite values, shape (n,)."""
        if values.size:
            self._counts += np.bincount(image(values + np.float32(0)) >> 16, minlength=BINS)
            self.count += values.size
            self.smallest = min(self.smallest, float(values.min()))
            self.largest = max(self.largest, float(values.max()))

    def quantile(self, q: float) -> float:
        """The value that a share q of the values do not exceed; 0 < q <= 1, count > 0."""
        place, _ = locate(self._counts, max(1, math.ceil(q * self.count)))
        middle = float(from_image(place << 16 | 0x8000))
        return min(max(middle, self.smallest), self.largest)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Bars of the deciding score: bar i holds what lies between edges[i] and edges[i + 1].

    Attributes:
        kept, dropped: counts by bar. below, above: pairs that lie left and right of the axis.
    """

    edges: tuple[float, ...]
    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    below: int
    above: int


def axis_range(sketch: Sketch, with_zero: bool) -> tuple[float, float]:
    """What the axis shows: all but 0.1 % on either side, and no tail that would squeeze the bulk into a few bars."""
    median = sketch.quantile(0.5)
    low = max(sketch.quantile(_OUTER), median - _SPREAD * (median - sketch.quantile(_INNER)), sketch.smallest)
    high = min(sketch.quantile(1 - _OUTER), median + _SPREAD * (sketch.quantile(1 - _INNER) - median), sketch.largest)
    if with_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if not low < high:
        low, high = sketch.smallest, sketch.largest
    pad = 0.01 * (high - low) or abs(high) * 0.1 or 1.0
    return low - pad, high + pad


def bar_edges(low: float, high: float, cut: float | None) -> npt.NDArray[np.float64]:
    """Edges of equal bars over a range; one of them is the cut, if that is anywhere near."""
    width = (high - low) / BARS
    if cut is None or not low - (high - low) <= cut <= high + (high - low):
        return np.linspace(low, high, BARS + 1)
    before, after = max(0, math.ceil((cut - low) / width)), max(0, math.ceil((high - cut) / width))
    return np.asarray(cut + width * np.arange(-before, after + 1), dtype=np.float64)
