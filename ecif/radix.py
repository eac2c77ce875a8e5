"""Floats as integers of the same order, so that ranks and quantiles need histograms instead of sorting.

The bits of a float32, with the sign bit flipped for positive and all bits flipped for negative numbers, compare like
the numbers themselves. Their upper 16 bits bin any range of scores with a relative width of at most 1/128: two
passes of 65,536 bins give an exact rank, one pass a quantile to two digits, in half a megabyte. Bins of many groups are
counted sparsely.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BINS = 1 << 16


def image(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """The order-preserving image, shape (n,): x < y exactly when image(x) < image(y).

    Holds for finite floats and infinities; -0.0 maps below 0.0, so add 0.0 first where the two must be equal.
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def from_image(image: int) -> np.float32:
    """The float that `image` maps to this integer."""
    bits = np.uint32(image & 0x7FFFFFFF if image >> 31 else ~image & 0xFFFFFFFF)
    return np.float32(bits.view(np.float32))


def locate(counts: npt.NDArray[np.int64], n: int) -> tuple[int, int]:
    """The bin that holds the n-th item, 1 <= n <= counts.sum(), and the item's place in that bin (1-based)."""
    total = np.cumsum(counts)
    place = int(np.searchsorted(total, n))
    return place, n - int(total[place] - counts[place])


class SparseCounts:
    """How often each code occurs: a group in its upper 16 bits, a bin in the lower ones.

    Memory is that of the distinct codes.
    """

    def __init__(self) -> None:
        self._codes: npt.NDArray[np.uint32] = np.zeros(0, dtype=np.uint32)
        self._counts: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._waiting: list[tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]] = []
        self._size = 0

    def add(self, codes: npt.NDArray[np.uint32]) -> None:
        """Count some more."""
        distinct, counts = np.unique(codes, return_counts=True)
        self._waiting.append((distinct, counts))
        self._size += distinct.size
        if self._size > max(1 << 20, self._codes.size):  # each merge at least doubles: all of them cost n log n
            self._merge()

    def _merge(self) -> None:
        both = np.concatenate([self._codes, *(codes for codes, _ in self._waiting)])
        counts = np.concatenate([self._counts, *(counts for _, counts in self._waiting)])
        self._codes, places = np.unique(both, return_inverse=True)
        self._counts = np.zeros(self._codes.size, dtype=np.int64)
        np.add.at(self._counts, places, counts)
        self._waiting, self._size = [], 0

    def of(self, group: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """The bins of a group that occur, sorted, and how often they do."""
        if self._waiting:
            self._merge()
        start, end = np.searchsorted(self._codes, [group << 16, (group + 1) << 16])
        return self._codes[start:end] & np.uint32(0xFFFF), self._counts[start:end]
