"""The files that img2dataset writes beside a tar, kept in step with it.

`NAME.parquet` has one row per attempted download, the tar only the successes; `NAME_stats.json` counts both. When
samples leave the tar, their rows leave the table and the counts follow; rows of failed downloads, all columns, types
and the order stay. Where nothing left, the bytes stay as they were. The table has to be the tar's own: a sample
without a row, or a successful row without a sample, is an error and not something to guess around. Counts, which
follow from table and tar, are set right.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from ecif.errors import InputError

SUCCESS = "success"


@dataclass(frozen=True, slots=True)
class Row:
    """What a sidecar needs to know of one sample of the tar: its key, its uid, and whether it leaves."""

    key: str
    uid: str
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One way in which tar and sidecars contradict each other; `code` is for machines."""

    code: str
    detail: str


def urls(tar: str) -> tuple[str, str]:
    """Where the sidecars of a tar lie if there are any: parquet and stats."""
    stem = tar.removesuffix(".tar")
    return f"{stem}.parquet", f"{stem}_stats.json"


def read_parquet(data: bytes, url: str) -> pl.DataFrame:
    """Load a parquet sidecar.

    Raises:
        InputError: it is not a parquet file.
    """
    try:
        return pl.read_parquet(io.BytesIO(data))
    except Exception as error:  # polars raises its own errors, OSError, and panics derived from neither
        raise InputError(f"not a parquet file that can be read: {error}", url=url) from error


def read_stats(data: bytes, url: str) -> dict[str, Any]:
    """Load a `_stats.json`.

    Raises:
        InputError: it is not a JSON object.
    """
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON: {error}", url=url) from error
    if not isinstance(value, dict):
        raise InputError(f"statistics are a JSON object, not a {type(value).__name__}", url=url)
    return value


def rewrite_parquet(data: bytes, samples: Sequence[Row], url: str) -> bytes:
    """The parquet sidecar without the rows of the samples that leave; the same bytes when none leaves.

    Args:
        data: the file as it is.
        samples: all samples of the tar, in order.

    Raises:
        InputError: not a parquet file, or not the table of this tar.
    """
    table = read_parquet(data, url)
    kept = _kept_rows(table, samples, url)
    if kept.all():
        return data
    buffer = io.BytesIO()
    table.filter(kept).write_parquet(buffer)
    return buffer.getvalue()


def rewrite_stats(data: bytes, samples: Sequence[Row], rows: int | None, url: str) -> bytes:
    """The statistics of the tar after the removal; the same bytes when they are right already.

    `count` becomes the number of rows, `successes` and `status_dict.success` the number of samples that stay; fields
    that are not there are not added, and all others stay, in their order.

    Args:
        rows: of the rewritten parquet; None without a parquet: `count` then falls by the samples that leave.

    Raises:
        InputError: not a JSON object.
    """
    stats = read_stats(data, url)
    removed = sum(sample.removed for sample in samples)
    left = len(samples) - removed
    count = stats.get("count")
    if rows is None and type(count) is int:
        rows = count - removed
    new = dict(stats)
    if "count" in stats and rows is not None:
        new["count"] = rows
    if "successes" in stats:
        new["successes"] = left
    by_status = stats.get("status_dict")
    if isinstance(by_status, dict) and SUCCESS in by_status:
        new["status_dict"] = by_status | {SUCCESS: left}
    if new == stats:
        return data
    text = data.decode("utf-8")
    indent = re.match(r"\s*\{\r?\n( +)", text)
    compact = re.match(r'\s*\{"[^"]*":\S', text)
    return json.dumps(
        new,
        indent=len(indent.group(1)) if indent else None,
        separators=(",", ":") if compact and not indent else None,
        ensure_ascii=text.isascii(),
    ).encode() + (b"\n" if text.endswith("\n") else b"")


def disagreements(
    samples: Sequence[Row], table: pl.DataFrame | None, stats: dict[str, Any] | None
) -> list[Disagreement]:
    """What tar and sidecars say against each other; empty when they agree.

    Args:
        samples: of the tar, in order; those marked as removed must have no row.
        table, stats: the sidecars that exist.
    """
    left = [sample for sample in samples if not sample.removed]
    found = []
    if table is not None:
        try:
            _kept_rows(table, left, "")
        except InputError as error:
            found.append(Disagreement("parquet_keys", error.problem))
    if stats is not None:
        count, successes, by_status = stats.get("count"), stats.get("successes"), stats.get("status_dict")
        if table is not None and count is not None and count != table.height:
            detail = f"_stats.json counts {count} rows, the parquet has {table.height}"
            found.append(Disagreement("stats_count", detail))
        if successes is not None and successes != len(left):
            detail = f"_stats.json counts {successes} successes, the tar holds {len(left)} samples"
            found.append(Disagreement("stats_successes", detail))
        if isinstance(by_status, dict) and SUCCESS in by_status and by_status[SUCCESS] != len(left):
            detail = f"status_dict of _stats.json counts {by_status[SUCCESS]}, the tar holds {len(left)} samples"
            found.append(Disagreement("stats_successes", detail))
    return found


def _kept_rows(table: pl.DataFrame, samples: Sequence[Row], url: str) -> pl.Series:
    """(rows,) bool: which rows of the table stay."""
    column, names = _identities(table, samples, url)
    values = table[column].cast(pl.String).to_list()
    has_status = "status" in table.columns
    success = (table["status"].cast(pl.String) == SUCCESS).fill_null(False).to_list() if has_status else None
    places: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        if success is None or success[row]:
            places.setdefault(value, []).append(row)
    kept = [True] * table.height
    of: dict[str, list[bool]] = {}
    for name, sample in zip(names, samples, strict=True):
        of.setdefault(name, []).append(sample.removed)
    for name, removed in of.items():
        rows = places.pop(name, [])
        if not rows:
            problem = f"the sample {name!r} of the tar has no{' successful' if success else ''} row"
            raise InputError(f"{problem}; is it the table of this tar? ecif lint tells more", url=url)
        # The n-th row with a name belongs to the n-th sample with it; repeated samples may share the last row.
        for place, row in enumerate(rows[: len(removed)]):
            kept[row] = not all(removed[place:] if place == len(rows) - 1 else removed[place : place + 1])
        if success is not None and len(rows) > len(removed):
            places[name] = rows[len(removed) :]
    if success is not None and places:
        name, (row, *_) = min(places.items(), key=lambda item: item[1])
        problem = f"row {row} ({column} {name!r}) is marked {SUCCESS!r} but the tar has no such sample"
        raise InputError(f"{problem}; is it the table of this tar? ecif lint tells more", url=url)
    # Without statuses, the rows that no sample claims are failed downloads.
    return pl.Series("kept", kept, dtype=pl.Boolean)


def _identities(table: pl.DataFrame, samples: Sequence[Row], url: str) -> tuple[str, list[str]]:
    """The column to match by, and the samples' names in it."""
    if "key" in table.columns:
        names = [sample.key for sample in samples]
        # Tars packed with `tar c ./*` or with directories: the table has the bare names.
        if any("/" in name for name in names) and not set(names) <= set(table["key"].cast(pl.String).to_list()):
            names = [name.rpartition("/")[2] for name in names]
        return "key", names
    if "uid" in table.columns:
        return "uid", [sample.uid for sample in samples]
    raise InputError(f"has neither a 'key' nor a 'uid' column, only {', '.join(table.columns)}", url=url)
