"""All score tables of an output as one lazy table.

The tables are read one at a time, each only with the columns that are asked for, through `Storage`: so it works
wherever an output can lie, and memory holds one shard's rows beyond what the query keeps. The trade-off: shards are
read one after the other, not in parallel.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import polars as pl
from polars.io.plugins import register_io_source

from ecif.errors import UsageError
from ecif.layout import Layout
from ecif.stages.plan import only_score_key, scored_shards
from ecif.storage import Storage


def scan(layout: Layout, storage: Storage, score_key: str | None = None) -> pl.LazyFrame:
    """One row per sample, shards in the order of their names; the columns are those of docs/files.md.

    Args:
        score_key: which scores; may be left out when the output holds one set of them.

    Raises:
        UsageError: there are no scores, or several sets and no key.
        InputError: a table cannot be read; raised when the query runs.
    """
    key = score_key or only_score_key(layout, storage)
    urls = [layout.scores(key, shard) for shard in sorted(scored_shards(layout, storage, key))]
    if not urls:
        raise UsageError(f"{layout.root} holds no table of the scores {key} yet; run score")
    schema = pl.read_parquet_schema(io.BytesIO(storage.read_bytes(urls[0])))

    def tables(
        columns: list[str] | None, predicate: pl.Expr | None, most: int | None, batch: int | None
    ) -> Iterator[pl.DataFrame]:
        left = most
        for url in urls:
            if left is not None and left <= 0:
                return
            table = pl.read_parquet(io.BytesIO(storage.read_bytes(url)), columns=columns)
            # `most` counts the rows before the predicate.
            table = table if left is None else table.head(left)
            left = None if left is None else left - table.height
            yield table if predicate is None else table.filter(predicate)

    return register_io_source(io_source=tables, schema=schema)
