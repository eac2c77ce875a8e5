"""Score tables with the columns that a rule looks at, also those that stand in the table beside the shard.

img2dataset and its like write a parquet beside every tar; rows are matched to samples by key or uid
(`shards.sidecars.row_of`). Only what stands there can decide: `.json` members stand in the tars, and planning would
have to read all of them. A shard without such a table, or whose table lacks the column, has nulls in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import polars as pl

from ecif.ahead import ahead
from ecif.errors import InputError, UsageError
from ecif.inventory import Shard
from ecif.nearest import did_you_mean
from ecif.policy.rule import BESIDE, OF_SCORES, Rule
from ecif.scores import read_table, stream_scores
from ecif.shards import sidecars
from ecif.shards.sidecars import Row
from ecif.storage import Storage

_SCALAR = (pl.String, pl.Categorical, pl.Boolean, pl.Null)


@dataclass(frozen=True, slots=True)
class Tables:
    """Where the tables of a corpus are.

    Attributes:
        scores: shard name -> URL of its score table.
        beside: shard name -> URL of the parquet beside the shard, for those that have one.
    """

    storage: Storage
    scores: Mapping[str, str]
    beside: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def stream(
        self, rule: Rule, names: Collection[str] | None = None, extra: Collection[str] = ()
    ) -> Iterator[tuple[str, pl.DataFrame]]:
        """One table after another, in the order of the names, with what the rule looks at.

        Args:
            names: of the shards; None: all.
            extra: further columns of the score tables.

        Raises:
            InputError: a table cannot be read, or lacks a column.
        """
        chosen = {name: self.scores[name] for name in (self.scores if names is None else names)}
        columns = tuple(dict.fromkeys((*rule.columns, *extra)))
        if not rule.beside:
            return stream_scores(self.storage, chosen, columns)

        def read(name: str) -> pl.DataFrame:
            return joined(read_table(self.storage, chosen[name], columns), self.beside.get(name), rule, self.storage)

        order = sorted(chosen)
        return zip(order, ahead(read, order), strict=True)

    def check(self, rule: Rule) -> None:
        """Refuse columns that no table has, as far as the first table of every source tells.

        Raises:
            UsageError: a column is unknown; the nearest one is named.
        """
        if not rule.beside:
            return
        firsts: dict[str, str] = {}
        for name in sorted(self.beside):
            firsts.setdefault(name.rpartition("/")[0], self.beside[name])
        known: set[str] = set()
        for url in firsts.values():
            known |= set(sidecars.read_parquet(self.storage.read_bytes(url), url).columns)
        for column in rule.beside:
            if column not in known:
                where = "neither the score tables nor the tables beside the shards have" if known else (
                    "the score tables have no such column, and no shard has a table beside it that could have"
                )  # fmt: skip
                raise UsageError(f"{where} a column {column!r}.{did_you_mean(column, [*known, *OF_SCORES])}")


def beside_of(shards: Collection[Shard]) -> dict[str, str]:
    """Shard name -> URL of the parquet beside it, where there is one."""
    return {shard.name: shard.parquet for shard in shards if shard.parquet is not None}


def joined(table: pl.DataFrame, url: str | None, rule: Rule, storage: Storage) -> pl.DataFrame:
    """A score table with the columns that a rule takes from the table beside the shard.

    Args:
        table: n rows with `uid` and `key`, all samples of the tar in order.
        url: of the parquet beside the shard; None where there is none.

    Raises:
        InputError: it cannot be read, is that of another tar, or the column holds no single values.
    """
    if not rule.beside:
        return table
    if url is None:
        return table.with_columns(pl.lit(None, pl.String).alias(BESIDE + name) for name in rule.beside)
    found = sidecars.read_parquet(storage.read_bytes(url), url)
    samples = [Row(key, uid) for key, uid in table.select("key", "uid").iter_rows()]
    rows = sidecars.row_of(found, samples, url)
    added = []
    for name in rule.beside:
        if name not in found.columns:
            added.append(pl.Series(BESIDE + name, [None] * table.height, dtype=pl.String))
            continue
        kind = found[name].dtype
        if not (kind.is_numeric() or kind in _SCALAR):
            raise InputError(f"the column {name} holds {kind}; policies look at texts, numbers and booleans", url=url)
        added.append(found[name][rows].alias(BESIDE + name))
    return table.with_columns(added)
