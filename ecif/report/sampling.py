"""Few of many rows, whatever the order in which they come: the outermost by a number, and those that chance draws.

Chance is a hash of who the pair is, so a sample does not depend on the order of the tables, nor on the runs among which
they came, and a pair that arrives takes the place of at most one other. Held are the rows that may still be among those
asked for; the trade-off is a sort now and then against a heap of Python objects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif.scores import IDENTITY

SEED = 0
_TOGETHER = 20_000  # rows that wait before they are sorted in
_LARGEST = np.iinfo(np.uint64).max

Draws = npt.NDArray[np.uint64]
Places = npt.NDArray[np.intp]
Rows = Callable[[Places], pl.DataFrame]
"""Gives the rows of a table at some places."""


def draws(shard: str, index: npt.NDArray[np.integer], seed: int = SEED) -> Draws:
    """A number of 64 bits for each pair of a shard, uniform and the same for ever: the smallest ones are a sample.

    The outputs of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), seeded by the shard's name and numbered by position.

    Args:
        index: positions in the tar, (n,).
    """
    start = int.from_bytes(hashlib.sha256(f"{seed}:{shard}".encode("utf-8", "surrogatepass")).digest()[:8], "big")
    with np.errstate(over="ignore"):
        z = np.uint64(start) + (index.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def owned(text: pl.Expr) -> pl.Expr:
    """The same texts in a buffer of their own.

    Rows that polars takes from a table share the buffer of all its texts: twenty rows would keep half a megabyte of
    ten thousand alive.
    """
    return pl.concat_str(text, pl.lit(""))


class Outermost:
    """The `size` rows with the smallest value of a column, ties by identity; or the largest, `descending`.

    Attributes:
        rows: from the outermost inwards; None before the first table.
    """

    def __init__(self, column: str, size: int, *, descending: bool = False) -> None:
        self._column, self._size, self._descending = column, size, descending
        self.rows: pl.DataFrame | None = None

    def add(self, values: npt.NDArray[np.floating], rows: Rows) -> None:
        """Take in a table.

        Args:
            values: (n,) of the column; rows with NaN take no part. rows: of the table, with the column and `IDENTITY`.
        """
        places = np.flatnonzero(~np.isnan(values)) if self._size else np.empty(0, np.intp)
        sign = -1.0 if self._descending else 1.0
        near = sign * values[places].astype(np.float64)
        if near.size > self._size:
            bound = np.partition(near, self._size - 1)[self._size - 1]
            places, near = places[near <= bound], near[near <= bound]
        if self.rows is not None and places.size and len(self.rows) == self._size:
            places = places[near <= sign * self.rows[self._column][-1]]
        if self.rows is None or places.size:
            more = rows(places)
            both = more if self.rows is None else pl.concat([self.rows, more])
            self.rows = both.sort(self._column, *IDENTITY, descending=self._descending).head(self._size)


class Drawn:
    """A sample of the rows of every status: those with the smallest draws.

    Args:
        scored: how many of those with status `ok`. others: of every other status.
    """

    def __init__(self, scored: int, others: int) -> None:
        self._sizes = {"ok": scored}
        self._others = others
        self._limits: dict[str, int] = {}
        self._held: pl.DataFrame | None = None
        self._waiting: list[pl.DataFrame] = []
        self._waits = 0

    def add(self, status: pl.Series, draw: Draws, rows: Rows) -> None:
        """Take in a table.

        Args:
            status, draw: (n,). rows: of the table, with the columns `status`, `draw` and `IDENTITY`.
        """
        found = []
        for name in status.unique():
            places = np.flatnonzero((status == name).to_numpy())
            own = draw[places]
            places = places[own <= np.uint64(self._limits.get(name, _LARGEST))]
            size = self._sizes.get(name, self._others)
            if places.size > size:
                own = draw[places]
                places = places[own <= np.partition(own, size - 1)[size - 1]]
            found.append(places)
        every = np.concatenate([np.zeros(0, np.intp), *found])
        if every.size or self._held is None:
            self._wait(rows(every))

    def put(self, rows: pl.DataFrame) -> None:
        """Take in what `rows` of another sample of the same sizes gave."""
        self._wait(rows)

    @property
    def rows(self) -> pl.DataFrame | None:
        """The sample in the order of the draws; None before the first table."""
        if self._waiting:
            both = pl.concat([*([] if self._held is None else [self._held]), *self._waiting])
            both = both.sort("draw", *IDENTITY)
            size = pl.col("status").replace_strict(
                list(self._sizes), list(self._sizes.values()), default=self._others, return_dtype=pl.Int64
            )
            self._held = both.filter(pl.int_range(pl.len()).over("status") < size)
            self._waiting, self._waits = [], 0
            ends = self._held.group_by("status").agg(pl.len(), pl.col("draw").last())
            self._limits = {
                name: last for name, n, last in ends.iter_rows() if n >= self._sizes.get(name, self._others)
            }
        return self._held

    def _wait(self, rows: pl.DataFrame) -> None:
        self._waiting.append(rows)
        self._waits += len(rows)
        if self._held is None or self._waits >= _TOGETHER:
            _ = self.rows
