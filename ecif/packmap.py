"""Which survivor goes to which new shard when an output is packed anew (`--repack N`).

The survivors of all recorded shards, in the order of the shards' names, are cut into runs of N; the runs become the
shards 00000000, 00000001, ... What has to be frozen is therefore only how many samples of which shard survived: the
map of a generation is that list, the rest is arithmetic. Shards that arrive later make a further generation, which
begins a shard of its own, so that nothing packed ever changes; the price is one short shard per generation.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property

from ecif.ahead import ahead
from ecif.errors import InputError
from ecif.layout import Layout
from ecif.manifest import exact_fields, typed
from ecif.storage import Storage

MOST = 10**8  # packed shards: their names have eight digits


@dataclass(frozen=True, slots=True)
class Part:
    """The survivors `first` to `last` - 1 of one input shard, counted among its survivors from 0."""

    shard: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Target:
    """A packed shard as the map has it: its name, its generation, and what goes into it, in order."""

    name: str
    generation: int
    parts: tuple[Part, ...]

    @property
    def samples(self) -> int:
        """How many it holds."""
        return sum(part.last - part.first for part in self.parts)


@dataclass(frozen=True, slots=True)
class Generation:
    """One frozen part of the map.

    Args:
        number: from 0; no shard of a later generation goes into shards of an earlier one.
        samples_per_shard: N.
        first: number of its first packed shard.
        decision_key: what decided which samples survive.
        shards: survivors of each input shard, sorted by name; also those with none.
        algo_version: `ecif.ALGO_VERSION` of the writer.

    Raises:
        ValueError: a number is out of range, or the shards are not sorted.
    """

    number: int
    samples_per_shard: int
    first: int
    decision_key: str
    shards: dict[str, int]
    algo_version: int

    def __post_init__(self) -> None:
        if min(self.number, self.first, self.samples_per_shard - 1, *self.shards.values()) < 0:
            raise ValueError("a number is out of range")
        if list(self.shards) != sorted(self.shards):
            raise ValueError("the shards are not sorted by name")

    @property
    def samples(self) -> int:
        """Survivors of all its shards."""
        return sum(self.shards.values())

    @property
    def packed(self) -> int:
        """How many packed shards it makes."""
        return -(-self.samples // self.samples_per_shard)

    def targets(self) -> Iterator[Target]:
        """Its packed shards, in order."""
        number, parts, room = self.first, [], self.samples_per_shard
        for shard, kept in self.shards.items():
            start = 0
            while start < kept:
                end = min(kept, start + room)
                parts.append(Part(shard, start, end))
                start, room = end, room - (end - start)
                if not room:
                    yield Target(f"{number:08d}", self.number, tuple(parts))
                    number, parts, room = number + 1, [], self.samples_per_shard
        if parts:
            yield Target(f"{number:08d}", self.number, tuple(parts))

    def encode(self) -> bytes:
        """As it is written: JSON, always the same bytes."""
        return (json.dumps(asdict(self), sort_keys=True, indent=1) + "\n").encode("ascii")

    @classmethod
    def decode(cls, data: bytes, url: str) -> Generation:
        """What `encode` gave.

        Args:
            url: where it was read, for messages.

        Raises:
            InputError: it is damaged.
        """
        try:
            given = exact_fields(cls, json.loads(data))
            for shard, kept in given["shards"].items():
                typed(kept, int, shard)
            return cls(**given)
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"is not a valid map of a repacked output: {error}", url=url) from error


@dataclass(frozen=True)
class PackMap:
    """The generations of an output, in order.

    Raises:
        ValueError: they contradict each other.
    """

    generations: tuple[Generation, ...] = ()

    def __post_init__(self) -> None:
        due = 0
        for place, generation in enumerate(self.generations):
            if (generation.number, generation.first) != (place, due):
                problem = f"generation {generation.number} from shard {generation.first}"
                raise ValueError(f"{problem} stands where generation {place} from shard {due} is due")
            due += generation.packed
        if len({(one.samples_per_shard, one.decision_key) for one in self.generations}) > 1:
            raise ValueError("its generations have different sizes or decisions")
        if len(self.shards) != sum(len(one.shards) for one in self.generations):
            raise ValueError("a shard is in two generations")

    @cached_property
    def shards(self) -> frozenset[str]:
        """Names of the input shards that it covers."""
        return frozenset(itertools.chain.from_iterable(one.shards for one in self.generations))

    @property
    def packed(self) -> int:
        """How many packed shards there are to be."""
        return sum(one.packed for one in self.generations)

    def targets(self) -> Iterator[Target]:
        """All packed shards, in order."""
        return itertools.chain.from_iterable(one.targets() for one in self.generations)


def load(layout: Layout, storage: Storage) -> PackMap:
    """The map as it stands; without generations when the output has none.

    Raises:
        InputError: a generation is damaged, missing, or contradicts another.
    """
    urls = [file.url for file in storage.list(layout.packs(), ".json", recursive=False)]
    generations = ahead(lambda url: Generation.decode(storage.read_bytes(url), url), urls)
    try:
        return PackMap(tuple(generations))
    except ValueError as error:
        raise InputError(f"is not a valid map of a repacked output: {error}", url=layout.packs()) from error
