"""The k-th worst pair of every group, its score and its identity, in few readings of the tables and bounded memory.

The k-th score is found by radix selection. A float32 has an order-preserving image among the unsigned 32-bit integers
(`ecif/radix.py`): a first pass over the scores counts its upper 16 bits by group, a second pass counts the lower 16
bits within the bin that holds the group's k-th score, and that names the score exactly. Only the pairs that tie at it
are then looked at one by one: by uid, then key, then shard, then index. Where more pairs tie than may be held, their
identities are narrowed by the same idea, two bytes a pass.

On object storage a pass is a request for every shard, and requests are what the cut waits for. So what a pass has seen
is held while there is room: the scores themselves from the first, and of shards beyond that, from the second, the lower
bits in the bins. The second pass reads only shards whose scores are not held, and the ties are looked for only in
shards that may have one. A corpus that fits is read once, a larger one up to twice, and the few shards of the ties once
more. What goes of every shard follows from the same, so nobody has to read the tables to count it. The trade-off is up
to 300 MB against these requests; where the room ends, more shards are read, and what is found is the same. Groups are
counted sparsely: memory grows with the bins that occur in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif.errors import UsageError
from ecif.policy.census import NEEDED, Census
from ecif.policy.rule import Rule, View
from ecif.policy.tables import Tables
from ecif.radix import SparseCounts, from_image, image, locate
from ecif.scores import IDENTITY, Identity, identities

VALUES_HELD = 1 << 25  # scores in memory from the first pass, 6 bytes each
BITS_HELD = 1 << 24  # lower halves of scores in memory from the second pass, 4 bytes each
TIES_HELD = 1_000_000  # identities in memory at a time, a few hundred bytes each
MOST_GROUPS = 10_000
_STEP = 2  # bytes of an identity that one narrowing pass settles

Values = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint16]
Counts = npt.NDArray[np.int64]
Place = tuple[float, Identity]
"""A score, and the identity of the pair up to which those that tie at it go."""


@dataclass(frozen=True, slots=True)
class Worst:
    """The k worst pairs of every group.

    Attributes:
        places: for every group score and identity of its k-th worst pair; None for k = 0.
        gone: how many pairs of each shard lie up to there; without shards of which only their tables tell.
    """

    places: list[Place | None]
    gone: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The candidates of a corpus from the worst on, after the first pass over its tables.

    Attributes:
        tables, rule: what is ranked, and by what.
        census: what the tables hold, by shard.
        groups: their names, in the order in which they were met; one, None, where the rule has no groups.
        counts: (groups,) candidates.
        held: by shard worseness and group of the candidates, for as many shards as there was room.
    """

    tables: Tables
    rule: Rule
    census: Census
    groups: tuple[str | None, ...]
    counts: Counts
    held: Mapping[str, tuple[Values, Codes]]
    _upper: SparseCounts
    _code: Mapping[str | None, int] = field(repr=False)

    @classmethod
    def read(cls, tables: Tables, rule: Rule) -> Ranking:
        """Make the first pass.

        Raises:
            InputError: a file is not a score table, or a row marked ok has no finite score.
            UsageError: there are too many groups.
        """
        upper, census = SparseCounts(), Census(rule.by)
        code: dict[str | None, int] = {} if rule.by else {None: 0}
        counts = np.zeros(MOST_GROUPS, dtype=np.int64)
        held: dict[str, tuple[Values, Codes]] = {}
        room = VALUES_HELD
        for name, table in tables.stream(rule, extra=NEEDED):
            view = rule.view(table, tables.scores[name])
            census.add(name, table, view)
            if view.groups is not None:
                for group in view.groups.unique(maintain_order=True):
                    code.setdefault(group, len(code))
                if len(code) > MOST_GROUPS:
                    raise UsageError(
                        f"--by {rule.by}: more than {MOST_GROUPS:,} different values; quotas are for columns with few, "
                        "such as a language"
                    )
            codes = _codes(view, code)
            upper.add(_joined(codes, image(view.worse) >> np.uint32(16)))
            counts += np.bincount(codes, minlength=MOST_GROUPS)
            if view.worse.size <= room:
                held[name] = view.worse, codes
                room -= view.worse.size
        return cls(tables, rule, census, tuple(code), counts[: len(code)], held, upper, code)

    @property
    def n_rows(self) -> int:
        """Pairs of the corpus."""
        return sum(self.census.rows)

    @property
    def n_ok(self) -> int:
        """Pairs with a score."""
        return sum(self.census.scored)

    def count_worse(self, threshold: float) -> tuple[Counts, dict[str, int]]:
        """How many candidates are strictly worse than a threshold, (groups,) and by shard."""
        cut = -threshold if self.rule.higher_is_worse else threshold
        found = np.zeros(len(self.groups), dtype=np.int64)
        by_shard = {}
        for name, worse, codes in self._values():
            beyond = worse.astype(np.float64) < cut
            found += np.bincount(codes[beyond], minlength=found.size)
            by_shard[name] = int(beyond.sum())
        return found, by_shard

    def worst(self, ks: Sequence[int]) -> Worst:
        """The k worst pairs of every group.

        Args:
            ks: (groups,) 0 <= k <= candidates of the group.
        """
        high = np.full(len(self.groups), -1, dtype=np.int64)
        left = np.zeros(len(self.groups), dtype=np.int64)
        for group, k in enumerate(ks):
            if k:
                bins, counts = self._upper.of(group)
                place, left[group] = locate(counts, k)
                high[group] = bins[place]
        lower, seen = self._lower(high)
        levels = np.full(high.size, np.nan, dtype=np.float32)
        bits = np.zeros(high.size, dtype=np.uint32)  # the lower halves of the levels
        ties = np.zeros(high.size, dtype=np.int64)
        for group in np.flatnonzero(high >= 0).tolist():
            found, counts = lower.of(group)
            place, left[group] = locate(counts, int(left[group]))
            levels[group] = from_image(int(high[group]) << 16 | int(found[place]))
            bits[group] = found[place]
            ties[group] = counts[place]
        gone: dict[str, int] = {}
        names = []
        for name in self.census.shards:
            if name in self.held:
                worse, of = self.held[name]
                gone[name], tied = int((worse < levels[of]).sum()), (worse == levels[of]).any()
            elif name in seen:
                beyond, codes = seen[name]
                of_bin, level = codes & np.uint32(0xFFFF), bits[codes >> 16]
                gone[name], tied = beyond + int((of_bin < level).sum()), (of_bin == level).any()
            elif not (tied := (high >= 0).any()):
                gone[name] = 0
            if tied:
                names.append(name)
        identities_of = self._identities(names, levels, left, ties, gone)
        sign = -1 if self.rule.higher_is_worse else 1
        places = [
            (float(sign * levels[group]) + 0.0, identities_of[group]) if group in identities_of else None
            for group in range(high.size)
        ]
        return Worst(places, gone)

    def _lower(self, high: Counts) -> tuple[SparseCounts, dict[str, tuple[int, npt.NDArray[np.uint32]]]]:
        """The second pass: the lower bits in each group's bin.

        Of shards that are not held also, while there is room, how many pairs are worse than their bin, and these bits.
        """
        tally = SparseCounts()
        seen: dict[str, tuple[int, npt.NDArray[np.uint32]]] = {}
        room = BITS_HELD
        for name, worse, codes in self._values() if (high >= 0).any() else ():
            bits = image(worse)
            upper, bound = bits >> 16, high[codes]
            inside = upper == bound
            of_bin = _joined(codes[inside], bits[inside] & np.uint32(0xFFFF))
            tally.add(of_bin)
            if name not in self.held and of_bin.size <= room:
                seen[name] = int((upper < bound).sum()), of_bin
                room -= of_bin.size
        return tally, seen

    def _identities(
        self, names: Collection[str], levels: Values, left: Counts, ties: Counts, gone: dict[str, int]
    ) -> dict[int, Identity]:
        """For each group the `left`-th identity of the `ties` pairs at its level; all are in the shards named.

        Those up to there are added to what is `gone` of their shards, where that is known.
        """
        found: dict[int, Identity] = {}
        batch: list[int] = []
        for group in np.flatnonzero(ties).tolist():
            if ties[group] > TIES_HELD:
                found[group] = self._narrowed(names, levels, group, int(left[group]), int(ties[group]))
                for name in names:
                    gone.pop(name, None)
                continue
            if batch and ties[[*batch, group]].sum() > TIES_HELD:
                found |= self._batch(names, levels, left, batch, gone)
                batch = []
            batch.append(group)
        return found | self._batch(names, levels, left, batch, gone) if batch else found

    def _batch(
        self, names: Collection[str], levels: Values, left: Counts, groups: list[int], gone: dict[str, int]
    ) -> dict[int, Identity]:
        tied: dict[int, list[tuple[Identity, str]]] = {group: [] for group in groups}
        for group, identity, name in self._ties(names, levels, groups):
            tied[group].append((identity, name))
        found = {}
        for group, pairs in tied.items():
            ordered = sorted(pairs)
            last = found[group] = ordered[int(left[group]) - 1][0]
            for identity, name in ordered:
                if identity <= last and name in gone:
                    gone[name] += 1
        return found

    def _narrowed(self, names: Collection[str], levels: Values, group: int, n: int, count: int) -> Identity:
        """The n-th identity of `count` pairs, more than may be held."""
        prefix = b""
        while count > TIES_HELD:
            end = len(prefix) + _STEP
            found = Counter(
                _sortable(identity)[len(prefix) : end] for _, identity, _ in self._ties(names, levels, [group], prefix)
            )
            steps = sorted(found)
            place, n = locate(np.array([found[step] for step in steps], dtype=np.int64), n)
            prefix, count = prefix + steps[place], found[steps[place]]
            if len(prefix) < end:
                break  # the identities have ended: all that are left are equal
        return sorted(identity for _, identity, _ in self._ties(names, levels, [group], prefix))[n - 1]

    def _ties(
        self, names: Collection[str], levels: Values, groups: list[int], prefix: bytes = b""
    ) -> Iterator[tuple[int, Identity, str]]:
        """The pairs of these groups at their levels: group, identity, and the name of the shard."""
        wanted = np.full(levels.size, np.nan, dtype=np.float32)
        wanted[groups] = levels[groups]
        for name, table, view, codes in self._read(names, *IDENTITY):
            at = np.flatnonzero(view.worse == wanted[codes])
            for group, identity in zip(codes[at].tolist(), identities(table, view.rows[at]), strict=True):
                if _sortable(identity).startswith(prefix):
                    yield group, identity, name

    def _values(self) -> Iterator[tuple[str, Values, Codes]]:
        """Every shard, its worseness and groups; what is held is not read."""
        yield from ((name, worse, codes) for name, (worse, codes) in self.held.items())
        rest = self.tables.scores.keys() - self.held.keys()
        yield from ((name, view.worse, codes) for name, _, view, codes in self._read(rest))

    def _read(self, names: Collection[str], *extra: str) -> Iterator[tuple[str, pl.DataFrame, View, Codes]]:
        for name, table in self.tables.stream(self.rule, names, extra):
            view = self.rule.view(table, self.tables.scores[name])
            yield name, table, view, _codes(view, self._code)


def _codes(view: View, code: Mapping[str | None, int]) -> Codes:
    """(m,) the groups of candidates as numbers."""
    if view.groups is None:
        return np.zeros(view.worse.size, dtype=np.uint16)
    distinct = view.groups.unique(maintain_order=True)
    if len(distinct) == 1:
        return np.full(view.worse.size, code[distinct[0]], dtype=np.uint16)
    return np.array([code[group] for group in view.groups], dtype=np.uint16)


def _joined(codes: Codes, bits: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Group in the upper 16 bits, and 16 bits of a score in the lower ones."""
    return (codes.astype(np.uint32) << np.uint32(16)) | bits


def _sortable(identity: Identity) -> bytes:
    """Bytes that compare as the identities do: each string ends in two zero bytes, and zeros inside it are escaped."""
    texts = (part.encode().replace(b"\0", b"\0\xff") + b"\0\0" for part in identity[:3])
    return b"".join(texts) + identity[3].to_bytes(8, "big")
