"""128-bit numbers in order, however many: a bucket sort on local disk.

A corpus has billions of uids, and lists of them have to be sorted and searched for repeats. Numbers are spread over
256 files by their first byte; a file that is larger than what may be held in memory is spread again by its next byte,
and so on, so that also crowded numbers (all zeros in front) end in small files. Memory stays at a few times
`BUCKET_BYTES`; the disk holds each number once. Uids are digests, so one level does for a billion of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

# What is sorted in memory at once, and what waits there to be spread.
BUCKET_BYTES = 64 * 2**20
Records = npt.NDArray[np.void]
Numbers = npt.NDArray[np.uint64]


class Sorter:
    """Collects numbers, each with a tag, and gives them back in order.

    Args:
        folder: an empty local directory, with room for 16 bytes and a tag per number; the caller deletes it.
        tag: numpy type of the tags, an unsigned integer.
        bucket_bytes: how much is sorted in memory at once.
    """

    def __init__(self, folder: Path, tag: str = "<u8", bucket_bytes: int = BUCKET_BYTES) -> None:
        self.kind = np.dtype([("high", "<u8"), ("low", "<u8"), ("tag", tag)])
        self._folder, self._most = folder, bucket_bytes // self.kind.itemsize
        self._waiting: list[Records] = []
        self._n_waiting = 0

    def add(self, high: Numbers, low: Numbers, tags: npt.ArrayLike) -> None:
        """Add numbers: their upper and lower halves (n,), and their tags (n,) or one for all."""
        records = np.empty(len(high), dtype=self.kind)
        records["high"], records["low"], records["tag"] = high, low, tags
        self._waiting.append(records)
        self._n_waiting += len(records)
        if self._n_waiting >= self._most:
            self._spread(np.concatenate(self._waiting), self._folder, 0)
            self._waiting, self._n_waiting = [], 0

    def sorted(self) -> Iterator[Records]:
        """All records (fields `high`, `low`, `tag`) in order of number and tag, in pieces; once.

        Equal numbers are in one piece, unless they alone are more than fit: then the pieces that follow each other
        hold nothing else, and their tags are in the order in which they came.
        """
        if self._waiting:
            self._spread(np.concatenate(self._waiting), self._folder, 0)
            self._waiting = []
        yield from self._collect(self._folder, 0)

    def _spread(self, records: Records, folder: Path, level: int) -> None:
        """Append records to the files of a folder by the byte at `level` of their numbers."""
        half, shift = ("high", 56 - 8 * level) if level < 8 else ("low", 120 - 8 * level)
        places = ((records[half] >> np.uint64(shift)) & np.uint64(255)).astype(np.uint8)
        records = records[np.argsort(places, kind="stable")]
        ends = np.cumsum(np.bincount(places, minlength=256))
        for place, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            if start < end:
                with (folder / f"{place:02x}").open("ab") as file:
                    file.write(records[start:end].tobytes())

    def _collect(self, folder: Path, level: int) -> Iterator[Records]:
        for path in sorted(folder.iterdir()):
            if path.stat().st_size <= self._most * self.kind.itemsize:
                records = np.fromfile(path, dtype=self.kind)
                path.unlink()
                yield records[np.lexsort((records["tag"], records["low"], records["high"]))]
            elif level == 15:  # all are the same number
                yield from self._pieces(path)
                path.unlink()
            else:
                below = path.with_name(f"{path.name}.d")
                below.mkdir()
                for records in self._pieces(path):
                    self._spread(records, below, level + 1)
                path.unlink()
                yield from self._collect(below, level + 1)
                below.rmdir()

    def _pieces(self, path: Path) -> Iterator[Records]:
        with path.open("rb") as file:
            while len(records := np.fromfile(file, dtype=self.kind, count=max(1, self._most))):
                yield records


@dataclass(frozen=True, slots=True)
class Repeat:
    """A number that came more than once: how often, its first tags in order, and the largest."""

    count: int
    tags: tuple[int, ...]
    largest: int


def repeats(pieces: Iterator[Records], tags: int) -> Iterator[Repeat]:
    """The numbers that came more than once, in order.

    Args:
        pieces: as `Sorter.sorted` gives them.
        tags: how many tags to keep of each number.
    """
    number, count, first, largest = None, 0, np.empty(0, np.uint64), 0
    for records in pieces:
        high, low, tag = records["high"], records["low"], records["tag"]
        starts = np.flatnonzero(np.append(True, (high[1:] != high[:-1]) | (low[1:] != low[:-1])))
        lengths = np.diff(np.append(starts, len(records)))
        # Single numbers inside a piece are the rule; those at its ends may go on in the next one.
        telling = lengths > 1
        telling[[0, -1]] = True
        for start, length in zip(starts[telling].tolist(), lengths[telling].tolist(), strict=True):
            of = tag[start : start + length]
            if (here := (int(high[start]), int(low[start]))) != number:
                if count > 1:
                    yield Repeat(count, tuple(first.tolist()), largest)
                number, count, first, largest = here, 0, of[:0], 0
            count += length
            first = np.append(first, of[: tags - len(first)])
            largest = max(largest, int(of.max()))
    if count > 1:
        yield Repeat(count, tuple(first.tolist()), largest)
