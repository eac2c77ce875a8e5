"""Score tables: reading them one shard after another, how bad their pairs are, and who these pairs are.

A table is about 100 bytes a pair and one file a shard. Its bytes come through `Storage`, whole, one request each and as
few at a time as hide the wait; then polars' streaming engine takes the columns that are wanted out of several tables at
once, because a query costs more than what it does with a thousand rows. What is worth keeping is up to whoever reads.
The trade-off against polars reading the files itself: columns that nobody asks for travel too, in return for one way to
credentials, retries and allowed places, and for half the requests.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif.ahead import ahead
from ecif.errors import InputError
from ecif.storage import Storage

Identity = tuple[str, str, str, int]
"""uid, key, shard and index of a pair: unique in a corpus, and the order in which ties go."""

IDENTITY = ("uid", "key", "shard", "index")

TOGETHER = 16  # tables in one query
TOGETHER_BYTES = 1 << 24  # of their files, at most, unless one alone is larger


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
    files = zip(names, ahead(lambda name: storage.read_bytes(scores[name]), names), strict=True)
    for part in _together(files):
        yield from zip([name for name, _ in part], _parsed(part, scores, columns), strict=True)


def _together(files: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """Neighbours, as many as go into one query."""
    part: list[tuple[str, bytes]] = []
    size = 0
    for name, data in files:
        if part and (len(part) == TOGETHER or size + len(data) > TOGETHER_BYTES):
            yield part
            part, size = [], 0
        part.append((name, data))
        size += len(data)
    if part:
        yield part


def _parsed(
    part: Sequence[tuple[str, bytes]], scores: Mapping[str, str], columns: Sequence[str]
) -> Iterable[pl.DataFrame]:
    """The tables of some files."""
    try:
        return pl.collect_all([pl.scan_parquet(data).select(columns) for _, data in part], engine="streaming")
    except pl.exceptions.PolarsError:  # one by one, so that the error comes in its turn and names its file
        return (_table(data, scores[name], columns) for name, data in part)


def read_table(storage: Storage, url: str, columns: Sequence[str]) -> pl.DataFrame:
    """One score table.

    Raises:
        InputError: the file is none, or lacks a column.
    """
    return _table(storage.read_bytes(url), url, columns)


def _table(data: bytes, url: str, columns: Sequence[str]) -> pl.DataFrame:
    try:
        return pl.read_parquet(io.BytesIO(data), columns=list(columns))
    except pl.exceptions.PolarsError as error:
        raise InputError(f"not a table with the scores {', '.join(columns)}: {error}", url=url) from error


def scored(scores: pl.DataFrame) -> npt.NDArray[np.bool_]:
    """Which of n rows are scored, (n,), by their `status`."""
    ok = scores["status"] == "ok"
    # A method of a series that polars has as an expression only costs a query, which small tables feel.
    return (ok.fill_null(False) if ok.null_count() else ok).to_numpy()


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
    ok = scored(scores)
    values = scores[column].cast(pl.Float32).to_numpy()[ok]  # NaN where it is null
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
