"""A score table: a row for every sample of a shard, also for those that were not scored."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from ecif import detectors
from ecif.errors import InputError
from ecif.inventory import Shard
from ecif.shards.decode import OK, Pair, Refused
from ecif.stages.wanted import Wanted

_IDENTITY = {
    "uid": pl.String,
    "key": pl.String,
    "shard": pl.String,
    "index": pl.UInt32,
    "batch": pl.UInt32,
    "position": pl.UInt32,
    "batch_n": pl.UInt32,
    "status": pl.String,
}


def schema(wanted: Wanted) -> dict[str, type[pl.DataType]]:
    """Columns of a score file: who, where, status; then every score, and the standard error of the influence."""
    always = (*detectors.NAMES, "influence_se")
    return {**_IDENTITY, **dict.fromkeys((*always, *(n for n in wanted.names if n not in always)), pl.Float32)}


def to_frame(
    shard: Shard,
    rows: list[Pair],
    refused: list[Refused],
    statuses: list[str],
    columns: Mapping[str, np.ndarray],
    places: np.ndarray,
    wanted: Wanted,
) -> pl.DataFrame:
    """Rows of all samples of a shard, in the order of the tar.

    Args:
        rows: pairs that went through the towers, with a status each. refused: the other samples.
        columns: scores by name, a number for each of `rows`, NaN where there is none. places: batch, position and
            batch size of `rows` in the first segmentation, (3, n).

    Raises:
        InputError: rows and samples differ.
    """
    scores = [name for name in schema(wanted) if name not in _IDENTITY]
    scored = [status == OK for status in statuses]
    data: dict[str, list[object]] = {name: [] for name in schema(wanted)}
    for row, pair in enumerate(rows):
        ok = scored[row]
        values = (pair.uid, pair.key, shard.name, pair.index, *(places[:, row].tolist() if ok else (None,) * 3))
        numbers = (_number(columns, name, row) if ok else None for name in scores)
        for name, value in zip(data, (*values, statuses[row], *numbers), strict=True):
            data[name].append(value)
    for sample in refused:
        values = (sample.uid, sample.key, shard.name, sample.index, None, None, None, sample.status)
        for name, value in zip(data, (*values, *(None for _ in scores)), strict=True):
            data[name].append(value)
    frame = pl.DataFrame(data, schema=schema(wanted)).sort("index")
    if not frame["index"].equals(pl.Series("index", range(len(frame)), pl.UInt32)):
        raise InputError("the samples of the tar and the rows of its scores differ", url=shard.url)
    return frame


def _number(columns: Mapping[str, np.ndarray], name: str, row: int) -> float | None:
    """A score, or None where a column has none for this pair."""
    value = float(columns[name][row]) if name in columns else np.nan
    return value if np.isfinite(value) else None
