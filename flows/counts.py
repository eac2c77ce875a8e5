"""Counts of a whole output, from its files: manifests of written shards, score tables of the others.

Counting files instead of adding up task results gives the same numbers for a run, its repetition and its resumption.
Manifests come from their rollup; it costs one small read for each shard that is scored and not written, a few at a
time.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import polars as pl

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
    run: Run, shards: Sequence[Shard], scored: AbstractSet[str], written: pl.DataFrame | None
) -> Iterator[ShardCount]:
    """The shards that are written, in their order, and then those that are only scored.

    Args:
        scored: names of the shards with scores. written: `ecif.rollup.load`; None where nothing is to be written.

    Raises:
        InputError: a score table is damaged.
    """
    names = pl.DataFrame({"shard": [shard.name for shard in shards]}, schema={"shard": pl.String})
    left = scored & set(names["shard"])
    if written is not None:
        columns = ("shard", "samples", "statuses", "kept", "dropped", "quarantined")
        found = names.join(written.select(columns), on="shard", how="inner", maintain_order="left")
        for name, samples, statuses, kept, dropped, quarantined in found.iter_rows():
            yield ShardCount(name, samples, json.loads(statuses), kept, dropped, quarantined)
        left -= set(found["shard"])

    def one(name: str) -> ShardCount:
        url = run.layout.scores(run.score_key, name)
        try:
            table = pl.read_parquet(io.BytesIO(run.storage.read_bytes(url)), columns=["status"])
        except pl.exceptions.PolarsError as error:
            raise InputError(f"is not a table of scores: {error}; delete it and run again", url=url) from error
        return ShardCount(name, len(table), dict(sorted(Counter(table["status"]).items())))

    yield from ahead(one, sorted(left))
