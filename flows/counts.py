"""Counts of a whole output, from its files: manifests of written shards, score tables of the others.

Counting files instead of adding up task results gives the same numbers for a run, its repetition and its resumption.
The files are not read here: the manifests' rollup and the report's tally have what they say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from ecif.inventory import Shard
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


def counts(shards: Sequence[Shard], tables: pl.DataFrame, written: pl.DataFrame | None) -> Iterator[ShardCount]:
    """The shards that are written, in their order, and then those that are only scored.

    Args:
        tables: what the report found in the score tables (`ecif.report.gather.Numbers.tables`).
        written: `ecif.rollup.load`; None where nothing is to be written.
    """
    names = pl.DataFrame({"shard": [shard.name for shard in shards]}, schema={"shard": pl.String})
    left = names
    if written is not None:
        columns = ("shard", "samples", "statuses", "kept", "dropped", "quarantined")
        found = names.join(written.select(columns), on="shard", how="inner", maintain_order="left")
        for name, samples, statuses, kept, dropped, quarantined in found.iter_rows():
            yield ShardCount(name, samples, json.loads(statuses), kept, dropped, quarantined)
        left = names.join(found, on="shard", how="anti", maintain_order="left")
    scored = left.join(tables.select("shard", "rows", "statuses"), on="shard", how="inner", maintain_order="left")
    for name, samples, statuses in scored.iter_rows():
        yield ShardCount(name, samples, json.loads(statuses))
