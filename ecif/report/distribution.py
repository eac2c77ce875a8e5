"""How scores are distributed: sketches that can be added up, and the bars of a histogram counted from them.

Influence has long tails: an axis from the lowest to the highest score would put nearly all pairs into one bar. So the
axis follows quantiles, the page says how many pairs it leaves out, and one edge of the bars lies exactly at the cut.

The axis is known when all scores have been seen, and they are read only once, so the bars are counted from sketches.
All other edges lie between two bins of these, where a count is exact; the bins are at least some thirty times narrower
than the bars, unless scores are so many, and scattered over so many orders of magnitude, that bars grow wider and fewer
with them. The bars are as wide as each other but for the two beside the cut, which share one bin's width unevenly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ecif.radix import from_image, image, locate

BARS = 60
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
COARSE = 13  # bits left out where three digits are enough
MOST = 1 << 18  # bins of a sketch; 12 bytes each
_WAITING = 1 << 18  # values that are counted at a time
_OUTER, _INNER, _SPREAD = 0.001, 0.05, 6.0  # what the axis of the histogram shows, see `axis_range`
_LAST = np.finfo(np.float32).max

Bins = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]
"""Numbers of the bins that hold something, rising, and how much they hold."""


class Sketch:
    """Count, extremes, quantiles and exact partial counts of finite float32 values.

    A bin holds the values whose order-preserving images (`ecif.radix`) are equal but for the last `shift` bits. One
    more bit is left out whenever more than MOST bins hold something. How many are, in the end, depends on the values
    alone: not on their order, nor on the parts in which they came. 3 MB at most, and as much while it counts.

    A quantile is off by 2^(shift - 24) of itself at most: by 0.05 % with COARSE bins, unless these have to grow.

    Args:
        shift: bits that are left out from the beginning.
    """

    def __init__(self, shift: int = 0) -> None:
        self._shift = shift
        self.count = 0
        self.smallest, self.largest = math.inf, -math.inf
        self._bins: Bins = (np.zeros(0, np.uint32), np.zeros(0, np.int64))
        self._waiting: list[npt.NDArray[np.uint32]] = []
        self._waits = 0

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Take in finite values, shape (n,)."""
        if values.size:
            self._waiting.append(image(values + np.float32(0)))
            self._waits += values.size
            self._note(values.size, float(values.min()), float(values.max()))
            if self._waits >= _WAITING:
                self.bins()

    def merge(self, bins: Bins, shift: int, smallest: float, largest: float) -> None:
        """Take in what another sketch has counted."""
        ids, counts = bins
        self._note(int(counts.sum()), smallest, largest)
        self._take(ids, counts, shift)

    def bins(self) -> Bins:
        """What has been counted, in bins of the present `shift`."""
        if self._waiting:
            waiting = np.concatenate(self._waiting) >> np.uint32(self._shift)
            self._waiting, self._waits = [], 0
            if self._shift >= COARSE:  # much faster than sorting
                counts = np.bincount(waiting)
                ids = np.flatnonzero(counts).astype(np.uint32)
                self._take(ids, counts[ids], self._shift)
            else:
                ids, counts = np.unique(waiting, return_counts=True)
                self._take(ids, counts, self._shift)
        return self._bins

    @property
    def shift(self) -> int:
        """Bits that are left out by now: the bins are 2^shift floats wide."""
        self.bins()
        return self._shift

    def quantile(self, q: float) -> float:
        """The value that a share q of the values do not exceed; 0 < q <= 1, count > 0."""
        ids, counts = self.bins()
        place, _ = locate(counts, max(1, math.ceil(q * self.count)))
        middle = float(from_image(int(ids[place]) << self._shift | (1 << self._shift) >> 1))
        return min(max(middle, self.smallest), self.largest)

    def below(self, bounds: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
        """How many values have a smaller image than each of these, which begin a bin: exact."""
        ids, counts = self.bins()
        total = np.concatenate([[0], counts.cumsum()])
        return total[np.searchsorted(ids, bounds >> np.uint32(self._shift))]

    def around(self, values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """How many values lie in smaller bins than each of these finite ones, (n,), and in the same bin, (n,)."""
        ids, counts = self.bins()
        total = np.concatenate([[0], counts.cumsum()])
        wanted = image(values + np.float32(0)) >> np.uint32(self._shift)
        first, last = np.searchsorted(ids, wanted), np.searchsorted(ids, wanted, side="right")
        return total[first], total[last] - total[first]

    def _note(self, count: int, smallest: float, largest: float) -> None:
        self.count += count
        self.smallest, self.largest = min(self.smallest, smallest), max(self.largest, largest)

    def _take(self, ids: npt.NDArray[np.uint32], counts: npt.NDArray[np.int64], shift: int) -> None:
        wider = max(self._shift, shift)
        both = [_coarser(self._bins, wider - self._shift), _coarser((ids, counts), wider - shift)]
        ids, counts = np.concatenate([part[0] for part in both]), np.concatenate([part[1] for part in both])
        order = np.argsort(ids, kind="stable")  # which is a merge: both are sorted
        self._bins, self._shift = _summed(ids[order], counts[order]), wider
        while self._bins[0].size > MOST:
            self._bins, self._shift = _coarser(self._bins, 1), self._shift + 1


def _coarser(bins: Bins, bits: int) -> Bins:
    """The same counts in bins of 2^bits times the width."""
    return _summed(bins[0] >> np.uint32(bits), bins[1]) if bits else bins


def _summed(ids: npt.NDArray[np.uint32], counts: npt.NDArray[np.int64]) -> Bins:
    """Add up what has the same number; numbers must not fall."""
    if not ids.size:
        return ids, counts
    first = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    return ids[first], np.add.reduceat(counts, first)


def share_worse(
    sketches: Sequence[Sketch], values: npt.NDArray[np.float32], higher_is_worse: bool
) -> npt.NDArray[np.float64]:
    """The share of all values of some sketches that is worse than each of `values`, which are among them: (n,).

    The others of a value's own bin are taken for half worse and half better; the worst is 0 where it has its own bin.
    """
    total = sum(sketch.count for sketch in sketches)
    below, same = (np.sum(part, axis=0) for part in zip(*(sketch.around(values) for sketch in sketches), strict=True))
    worse = total - below - same if higher_is_worse else below
    return np.asarray((worse + np.maximum(same - 1, 0) / 2) / max(1, total))


@dataclass(frozen=True, slots=True)
class Histogram:
    """Bars of the deciding score: bar i holds what lies between edges[i] and edges[i + 1].

    A pair exactly at an edge belongs to the bar on its worse side; at the cut, to the side of what is dropped.

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


def bar_edges(low: float, high: float, cut: float | None, shift: int) -> npt.NDArray[np.float64]:
    """Edges of equal bars over a range; one of them is the cut, if that is anywhere near.

    Args:
        shift: of the sketches from which the bars will be counted. All edges but the cut begin one of their bins.
    """
    span = high - low
    if cut is not None and not low - span <= cut <= high + span:
        cut = None
    # The width of a bin where they are widest, a power of two. Its multiples lie between bins wherever they are.
    farthest = max(abs(low), abs(high), abs(cut or 0.0)) + span / BARS
    step = math.ldexp(1.0, max(math.frexp(farthest)[1] - 24, -149) + shift)
    width = step * max(1, math.ceil(span / BARS / step))
    if cut is None:
        origin = step * math.floor(low / step)
        places = np.arange(math.ceil((high - origin) / width) + 1, dtype=np.float64)
        return np.unique(_begins(origin + width * places, shift))
    origin = step * round(cut / step)
    before = max(0, math.ceil((max(origin, cut) - low) / width))
    after = max(0, math.ceil((high - min(origin, cut)) / width))
    places = np.concatenate([np.arange(-before, 0.0), np.arange(1.0, after + 1)])
    return np.unique(np.append(_begins(origin + width * places, shift), cut))


def count_bars(
    kept: Sketch, dropped: Sketch, edges: npt.NDArray[np.float64], cut: float | None, before: tuple[int, int]
) -> Histogram:
    """The bars of scores of which the higher is the worse, between edges that `bar_edges` gave for these sketches.

    Args:
        kept, dropped: values of the pairs that stay and go; without further conditions these lie below and above the
            cut, and those exactly at it may be of either kind.
        before: how many of the kept and of the dropped ones are less than the cut.
    """
    bounds = _images(edges)
    below = np.stack([kept.below(bounds), dropped.below(bounds)])
    if cut is not None:  # which need not begin a bin
        below[:, edges == cut] = np.array(before)[:, None]
    bars = np.diff(below)
    above = kept.count + dropped.count - int(below[:, -1].sum())
    return Histogram(
        tuple(edges.tolist()), tuple(bars[0].tolist()), tuple(bars[1].tolist()), int(below[:, 0].sum()), above
    )


def mirrored(bars: Histogram) -> Histogram:
    """The bars of the negated scores."""
    edges = tuple(0.0 - edge for edge in reversed(bars.edges))
    return Histogram(edges, bars.kept[::-1], bars.dropped[::-1], bars.above, bars.below)


def _begins(values: npt.NDArray[np.float64], shift: int) -> npt.NDArray[np.float64]:
    """The first number at or above each value that begins a bin; the last there is for those beyond it."""
    begins = -(-_images(values).astype(np.int64) >> shift) << shift
    last = int(image(np.array([_LAST]))[0]) >> shift << shift
    return np.array([float(from_image(int(one))) for one in np.minimum(begins, last)], dtype=np.float64)


def _images(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint32]:
    return image(np.clip(values, -float(_LAST), float(_LAST)).astype(np.float32) + np.float32(0))
