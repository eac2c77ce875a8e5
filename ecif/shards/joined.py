"""The sidecars of a shard that is packed from several: one row per sample in the order of its tar, and statistics.

The rows come from the tables beside the inputs with all their columns. Where the inputs' columns differ, a row has
nulls in those that its own table lacks, and a column takes the type that holds what all of them hold. Rows of failed
downloads belong to no sample and are not carried along; they stay in the inputs' tables.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from ecif.errors import InputError
from ecif.interop import aliases
from ecif.shards import sidecars
from ecif.shards.sidecars import SUCCESS, Row


@dataclass(frozen=True, slots=True)
class Piece:
    """What one input adds to the sidecars of a packed shard.

    Attributes:
        samples: those that are packed, in order.
        rows: theirs in the input's table, one each; None where the input has no table.
        stats: of the input; empty where there are none.
    """

    samples: Sequence[Row]
    rows: pl.DataFrame | None = None
    stats: Mapping[str, Any] = field(default_factory=dict)


def rows_of(data: bytes, samples: Sequence[Row], chosen: Sequence[int], url: str) -> pl.DataFrame:
    """The rows of some samples in a parquet sidecar, one each.

    Args:
        data: the file. samples: all samples of its tar, in order. chosen: places among them.

    Raises:
        InputError: not a parquet file, or not the table of this tar.
    """
    table = sidecars.read_parquet(data, url)
    rows = sidecars.row_of(table, samples, url)
    return table[[rows[place] for place in chosen]]


def parquet(pieces: Sequence[Piece], url: str) -> bytes | None:
    """The table of a packed shard; None when no input has one.

    A sample whose input has no table gets a row with its key, its uid and its status, as far as the others have
    columns of text for them.

    Args:
        url: the name that errors give it.

    Raises:
        InputError: the inputs' tables have columns that nothing can hold both of.
    """
    tables = [piece.rows for piece in pieces if piece.rows is not None]
    if not tables:
        return None
    columns: dict[str, pl.DataType] = {}
    for table in tables:
        columns = dict(table.schema) | columns
    try:
        joined = pl.concat([_rows(piece, columns) for piece in pieces], how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        problem = f"the tables of its inputs do not fit together: {error}; use a new --out without --repack"
        raise InputError(problem, url=url) from error
    buffer = io.BytesIO()
    joined.write_parquet(buffer)
    return buffer.getvalue()


def stats(pieces: Sequence[Piece]) -> bytes:
    """The statistics of a packed shard in the form of img2dataset: all of its samples are successes.

    It began when the first of its inputs began to be downloaded and ended when the last one had been. img2dataset
    divides by that time, so it is a second where no input tells.
    """
    samples = sum(len(piece.samples) for piece in pieces)
    start = min(_times(pieces, "start_time"), default=0.0)
    end = max(_times(pieces, "end_time"), default=start)
    if end <= start:
        end = start + 1.0
    value = {
        "count": samples,
        "successes": samples,
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "duration": end - start,
        "start_time": start,
        "end_time": end,
        "status_dict": {SUCCESS: samples},
    }
    return json.dumps(value, indent=4).encode()


def _times(pieces: Sequence[Piece], name: str) -> list[float]:
    found = (piece.stats.get(name) for piece in pieces)
    return [float(time) for time in found if isinstance(time, int | float) and math.isfinite(time)]


def _rows(piece: Piece, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
    if piece.rows is not None:
        return piece.rows
    known = {
        aliases.column("key", columns): [sample.key for sample in piece.samples],
        aliases.column("uid", columns): [sample.uid for sample in piece.samples],
        "status": [SUCCESS] * len(piece.samples),
    }
    values = {name: values for name, values in known.items() if name is not None and columns.get(name) == pl.String}
    return pl.DataFrame(values or {name: [None] * len(piece.samples) for name in columns})
