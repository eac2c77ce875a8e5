"""The ledger of a shard: one row per sample that is not in the cleaned tar, and what it was.

It is the only record of what is gone: `verify` proves an output with it, `restore` finds samples by it. Rows stand in
the order of the input tar, and the same rows are always the same bytes.
"""

from __future__ import annotations

import io

import polars as pl

from ecif.errors import InputError

LEDGER = {
    "key": pl.String,
    "uid": pl.String,
    "index": pl.UInt32,
    "reason": pl.String,  # "policy", "duplicate", "override", "unscored:<status>" or "denied:<kind of entry>"
    "action": pl.String,
    "detector": pl.String,  # the column or expression that ranks
    "score": pl.Float32,
    "rank": pl.UInt32,  # 1 = worst of the shard's scored samples
    "sha256": pl.String,  # of the sample's raw members, as they stood in the tar
}
"""Columns and their types."""


def write(rows: pl.DataFrame) -> bytes:
    """The ledger as a file.

    Args:
        rows: the samples that go, in the order of the tar, with the columns of `LEDGER` and perhaps others.
    """
    buffer = io.BytesIO()
    rows.select(pl.col(name).cast(kind) for name, kind in LEDGER.items()).write_parquet(buffer)
    return buffer.getvalue()


def read(data: bytes, url: str) -> pl.DataFrame:
    """The ledger that a file holds.

    Args:
        url: where it was read, for messages.

    Raises:
        InputError: it is none.
    """
    try:
        table = pl.read_parquet(io.BytesIO(data))
    except Exception as error:  # polars raises its own errors, OSError, and panics derived from neither
        raise InputError(f"cannot be read: {error}", url=url) from error
    if dict(table.schema) != LEDGER:
        raise InputError(f"has the columns {', '.join(table.columns)}, not those of a ledger", url=url)
    return table
