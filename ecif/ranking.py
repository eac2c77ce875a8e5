"""The k-th worst pair of a corpus, its score and its identity, in few readings of the score tables and bounded memory.

The k-th score is found by radix selection. A float32 has an order-preserving image among the unsigned 32-bit integers
(`ecif/radix.py`): a first pass over the scores counts its upper 16 bits, a second pass counts the lower 16 bits within
the bin that holds the k-th score, and that names the score exactly. Only the pairs that tie at it are then looked at
one by one: by uid, then key, then shard, then index. Where more pairs tie than may be held, their identities are
narrowed by the same idea, two bytes a pass.

On object storage a pass is a request for every shard, and requests are what the cut waits for. So what a pass has seen
is held while there is room: the scores themselves from the first, and of shards beyond that, from the second, which
lower bits occur in the bin. The second pass reads only shards whose scores are not held, and the ties are looked for
only in shards that may have one. A corpus that fits is read once, a larger one up to twice, and the few shards of the
ties once more. The trade-off is up to 200 MB against these requests; where the room ends, more shards are read, and
what is found is the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif.detectors import Facts
from ecif.radix import BINS, from_image, image, locate
from ecif.scores import IDENTITY, Identity, identities, stream_scores, worseness
from ecif.storage import Storage

VALUES_HELD = 1 << 25  # scores in memory from the first pass, 4 bytes each
BITS_HELD = 1 << 25  # lower halves of scores in memory from the second pass, 2 bytes each
TIES_HELD = 1_000_000  # identities in memory at a time, a few hundred bytes each
_STEP = 2  # bytes of an identity that one narrowing pass settles

Values = npt.NDArray[np.float32]
Rows = tuple[str, pl.DataFrame, npt.NDArray[np.bool_], Values]
"""A shard, its table, which of the rows are scored, and how bad those are (`worseness`)."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The scored pairs of a corpus from the worst on, after the first pass over its score tables.

    Attributes:
        storage, scores, fact: where the tables are (shard name -> URL), and the score that ranks.
        n_rows: pairs of the corpus, scored or not.
        upper: (65,536,) scored pairs by the upper 16 bits of their worseness.
        held: worseness of the scored pairs by shard, for as many shards as there was room.
    """

    storage: Storage
    scores: Mapping[str, str]
    fact: Facts
    n_rows: int
    upper: npt.NDArray[np.int64]
    held: Mapping[str, Values]

    @classmethod
    def read(cls, storage: Storage, scores: Mapping[str, str], fact: Facts) -> Ranking:
        """Make the first pass.

        Raises:
            InputError: a file is not a score table, or a row marked ok has no finite score.
        """
        upper, n_rows = np.zeros(BINS, dtype=np.int64), 0
        held: dict[str, Values] = {}
        room = VALUES_HELD
        for name, table, _, worse in _rows(storage, scores, fact):
            upper += np.bincount(image(worse) >> 16, minlength=BINS)
            n_rows += table.height
            if worse.size <= room:
                held[name] = worse
                room -= worse.size
        return cls(storage, scores, fact, n_rows, upper, held)

    @property
    def n_ok(self) -> int:
        """Scored pairs."""
        return int(self.upper.sum())

    def count_worse(self, threshold: float) -> int:
        """How many scored pairs are strictly worse than a threshold."""
        cut = -threshold if self.fact.higher_is_worse else threshold
        return sum(int((worse.astype(np.float64) < cut).sum()) for _, worse in self._values())

    def worst(self, k: int) -> tuple[float, Identity]:
        """Score and identity of the k-th worst pair, 1 <= k <= `n_ok`."""
        high, n = locate(self.upper, k)
        counts = np.zeros(BINS, dtype=np.int64)
        seen: dict[str, npt.NDArray[np.uint16]] = {}
        room = BITS_HELD
        for name, worse in self._values():
            bits = image(worse)
            inside = (bits[bits >> 16 == high] & 0xFFFF).astype(np.uint16)
            counts += np.bincount(inside, minlength=BINS)
            if name not in self.held and (distinct := np.unique(inside)).size <= room:
                seen[name] = distinct
                room -= distinct.size
        low, n = locate(counts, n)
        level = from_image(high << 16 | low)

        def may_tie(name: str) -> bool:
            if name in self.held:
                return bool((self.held[name] == level).any())
            return name not in seen or low in seen[name]

        tie = self._tie([name for name in self.scores if may_tie(name)], level, n, int(counts[low]))
        return float(-level if self.fact.higher_is_worse else level) + 0.0, tie

    def _tie(self, names: Collection[str], level: np.float32, n: int, count: int) -> Identity:
        """The n-th identity of the `count` pairs at one level, all of which are in the shards named."""
        prefix = b""
        while count > TIES_HELD:
            end = len(prefix) + _STEP
            found = Counter(_sortable(identity)[len(prefix) : end] for identity in self._ties(names, level, prefix))
            steps = sorted(found)
            place, n = locate(np.array([found[step] for step in steps], dtype=np.int64), n)
            prefix, count = prefix + steps[place], found[steps[place]]
            if len(prefix) < end:
                break  # the identities have ended: all that are left are equal
        return sorted(self._ties(names, level, prefix))[n - 1]

    def _ties(self, names: Collection[str], level: np.float32, prefix: bytes) -> Iterator[Identity]:
        for _, table, ok, worse in self._read(names, *IDENTITY):
            rows = np.flatnonzero(ok)[worse == level]
            if rows.size:
                yield from (found for found in identities(table, rows) if _sortable(found).startswith(prefix))

    def _values(self) -> Iterator[tuple[str, Values]]:
        """Every shard and its worseness; what is held is not read."""
        yield from self.held.items()
        yield from ((name, worse) for name, _, _, worse in self._read(self.scores.keys() - self.held.keys()))

    def _read(self, names: Collection[str], *extra: str) -> Iterator[Rows]:
        return _rows(self.storage, {name: self.scores[name] for name in names}, self.fact, *extra)


def _rows(storage: Storage, scores: Mapping[str, str], fact: Facts, *extra: str) -> Iterator[Rows]:
    for name, table in stream_scores(storage, scores, ("status", fact.column, *extra)):
        yield name, table, *worseness(table, fact.column, fact.higher_is_worse, scores[name])


def _sortable(identity: Identity) -> bytes:
    """Bytes that compare as the identities do: each string ends in two zero bytes, and zeros inside it are escaped."""
    texts = (part.encode().replace(b"\0", b"\0\xff") + b"\0\0" for part in identity[:3])
    return b"".join(texts) + identity[3].to_bytes(8, "big")
