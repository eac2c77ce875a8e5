"""Score tables: reading them one shard after another, how bad their pairs are, and who these pairs are.

A table is about 100 bytes a pair and one file a shard, so it is read whole and as few at a time as hide the wait; what
is worth keeping of it is up to whoever reads.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif.ahead import ahead
from ecif.errors import InputError
from ecif.storage import Storage

Identity = tuple[str, str, str, int]
"""uid, key, shard and index of a pair: unique in a corpus, and the order in which ties go."""

IDENTITY = ("uid", "key", "shard", "index")


def stream_scores(
    storage: Storage, scores: Mapping[str, str], columns: Sequence[str]
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Score tables one shard after another, in the order of the names; a few are read ahead.

    Args:
        scores: shard name -> URL of its score table.
        columns: the columns to load.

    Raises:
        InputError: a file is not a score table, or lacks a column.
    """
    names = sorted(scores)
    return zip(names, ahead(lambda name: read_table(storage, scores[name], columns), names), strict=True)


def read_table(storage: Storage, url: str, columns: Sequence[str]) -> pl.DataFrame:
    """One score table.

    Raises:
        InputError: the file is none, or lacks a column.
    """
    try:
        return pl.read_parquet(io.BytesIO(storage.read_bytes(url)), columns=list(columns))
    except pl.exceptions.PolarsError as error:
        raise InputError(f"not a table with the scores {', '.join(columns)}: {error}", url=url) from error


def worseness(
    scores: pl.DataFrame, column: str, higher_is_worse: bool, where: str
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Which rows are scored, and how bad they are.

    Args:
        scores: n rows with `status` and the score column.
        column, higher_is_worse: the score, and its sense.
        where: the file or shard that an error names.

    Returns:
        ok: (n,) bool, the rows that count.
        worse: (ok.sum(),) float32 of those rows in their order: the smaller the worse; -0.0 has become 0.0.

    Raises:
        InputError: a row that counts has no finite score.
    """
    ok = (scores["status"] == "ok").fill_null(False).to_numpy()
    values = scores[column].cast(pl.Float32).fill_null(float("nan")).to_numpy()[ok]
    if not (finite := np.isfinite(values)).all():
        row = int(np.flatnonzero(ok)[np.flatnonzero(~finite)[0]])
        raise InputError(
            f"row {row} is marked ok but its {column} is {values[~finite][0]}; score this shard again", url=where
        )
    # Adding 0.0 turns -0.0 into 0.0: equal numbers must have equal images.
    return ok, (-values if higher_is_worse else values) + np.float32(0)


def identities(scores: pl.DataFrame, rows: npt.NDArray[np.intp]) -> list[Identity]:
    """Who these rows are, in their order; the table has the columns `IDENTITY`."""
    return [(uid, key, shard, int(index)) for uid, key, shard, index in scores[rows].select(IDENTITY).iter_rows()]
