"""All score tables of an output as one lazy table.

The tables come through `Storage`, a few read ahead, and hand on only the columns that are asked for: so it works
wherever an output can lie, and memory holds some shards' rows beyond what the query keeps, which is little with
`collect(engine="streaming")`. The trade-off: a query that wants the first rows reads its tables one after the other.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import polars as pl
from polars.io.plugins import register_io_source

from ecif.errors import UsageError
from ecif.layout import Layout
from ecif.scores import read_table, stream_scores
from ecif.stages.scored import only_score_key, scored_shards
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
    urls = {shard: layout.scores(key, shard) for shard in sorted(scored_shards(layout, storage, key))}
    if not urls:
        raise UsageError(f"{layout.root} holds no table of the scores {key} yet; run score")
    schema = pl.read_parquet_schema(io.BytesIO(storage.read_bytes(next(iter(urls.values())))))

    def tables(
        columns: list[str] | None, predicate: pl.Expr | None, most: int | None, batch: int | None
    ) -> Iterator[pl.DataFrame]:
        wanted = list(schema) if columns is None else columns
        if most is None:
            for _, table in stream_scores(storage, urls, wanted):
                yield table if predicate is None else table.filter(predicate)
            return
        left = most  # rows before the predicate
        for url in urls.values():
            if left <= 0:
                return
            table = read_table(storage, url, wanted).head(left)
            left -= table.height
            yield table if predicate is None else table.filter(predicate)

    return register_io_source(io_source=tables, schema=schema)
