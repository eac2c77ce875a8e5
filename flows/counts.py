"""Counts of a whole output, from its files: manifests of written shards, score tables of the others.

Counting files instead of adding up task results gives the same numbers for a run, its repetition and its resumption.
It costs one small read per shard, a few at a time.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import polars as pl

from ecif import manifest
from ecif.ahead import ahead
from ecif.errors import InputError
from ecif.inventory import Shard
from ecif.run import Run
from ecif.shards.decode import OK


@dataclass(frozen=True, slots=True)
class ShardCount:
    """One shard. `kept`, `dropped` and `quarantined` are None until it is written."""

    shard: str
    samples: int
    statuses: dict[str, int]
    kept: int | None = None
    dropped: int | None = None
    quarantined: int | None = None

    @property
    def unscored(self) -> int:
        """Samples whose status is not `ok`."""
        return sum(count for status, count in self.statuses.items() if status != OK)

    @property
    def lost(self) -> int:
        """Samples that are not kept, or, before anything is written, have no score."""
        return self.unscored if self.kept is None else self.samples - self.kept


def counts(
    run: Run, shards: Sequence[Shard], scored: AbstractSet[str], written: AbstractSet[str]
) -> Iterator[ShardCount]:
    """The shards that are written or at least scored, in their order.

    Raises:
        InputError: a manifest or a score table is damaged.
    """

    def one(name: str) -> ShardCount:
        if name in written:
            found = manifest.read(run.layout, run.storage, name)
            if found is not None:
                return ShardCount(name, found.samples, found.statuses, found.kept, found.dropped, found.quarantined)
        url = run.layout.scores(run.score_key, name)
        try:
            table = pl.read_parquet(io.BytesIO(run.storage.read_bytes(url)), columns=["status"])
        except pl.exceptions.PolarsError as error:
            raise InputError(f"is not a table of scores: {error}; delete it and run again", url=url) from error
        return ShardCount(name, len(table), dict(sorted(Counter(table["status"]).items())))

    return ahead(one, [shard.name for shard in shards if shard.name in scored or shard.name in written])
