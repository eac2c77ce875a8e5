"""The files that img2dataset writes beside a tar, kept in step with it.

`NAME.parquet` has one row per attempted download, the tar only the successes; `NAME_stats.json` counts both. When
samples leave the tar, their rows leave the table and the counts follow; rows of failed downloads, all columns, types
and the order stay. Where nothing left, the bytes stay as they were. The table has to be the tar's own: a sample
without a row, or a successful row without a sample, is an error and not something to guess around. Counts, which
follow from table and tar, are set right. A shard of restored samples has only their rows, and no failures.
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
from ecif.interop import aliases
from ecif.shards import apart

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


def read_parquet(data: bytes, url: str) -> pl.DataFrame:
    """Load a parquet sidecar, which strangers have made: apart, see `apart`.

    Raises:
        InputError: it is not a parquet file.
    """
    return apart.SHARED.read_parquet(data, url)


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
    return data if new == stats else _dumped(new, data)


def chosen_parquet(data: bytes, samples: Sequence[Row], url: str) -> bytes:
    """The rows of the samples that do not leave, and no others: failed downloads go, too.

    Args:
        data: the file as it is.
        samples: all samples of the tar, in order.

    Raises:
        InputError: not a parquet file, or not the table of this tar.
    """
    table = read_parquet(data, url)
    claims = row_of(table, samples, url)
    rows = sorted({row for row, sample in zip(claims, samples, strict=True) if not sample.removed})
    buffer = io.BytesIO()
    table[rows].write_parquet(buffer)
    return buffer.getvalue()


def chosen_stats(data: bytes, samples: int, url: str) -> bytes:
    """The statistics of so many samples of the tar, without any failure; fields that are not counts stay.

    Raises:
        InputError: not a JSON object.
    """
    stats = read_stats(data, url)
    counts: dict[str, Any] = {"count": samples, "successes": samples, "status_dict": {SUCCESS: samples}}
    counts |= dict.fromkeys(("failed_to_download", "failed_to_resize"), 0)
    return _dumped(stats | {name: value for name, value in counts.items() if name in stats}, data)


def _dumped(stats: dict[str, Any], before: bytes) -> bytes:
    """Statistics in the style of the file that they come from."""
    text = before.decode("utf-8")
    indent = re.match(r"\s*\{\r?\n( +)", text)
    compact = re.match(r'\s*\{"[^"]*":\S', text)
    return json.dumps(
        stats,
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


def row_of(table: pl.DataFrame, samples: Sequence[Row], url: str) -> list[int]:
    """The row of each sample.

    The n-th row with a name belongs to the n-th sample with it; repeated samples may share the last one. Rows of
    failed downloads belong to none.

    Args:
        table: n rows of a parquet sidecar.
        samples: all samples of the tar, in order.

    Raises:
        InputError: a sample has no row, or a successful row no sample: it is not the table of this tar.
    """
    column, values, names = _identities(table, samples, url)
    has_status = "status" in table.columns
    success = (table["status"].cast(pl.String) == SUCCESS).fill_null(False).to_list() if has_status else None
    places: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        if value is not None and (success is None or success[row]):
            places.setdefault(value, []).append(row)
    found = []
    taken: dict[str, int] = {}
    for name in names:
        own = places.get(name)
        if own is None:
            problem = f"the sample {name!r} of the tar has no{' successful' if success else ''} row"
            raise InputError(f"{problem}; is it the table of this tar? ecif lint tells more", url=url)
        nth = taken.get(name, 0)
        taken[name] = nth + 1
        found.append(own[min(nth, len(own) - 1)])
    # Without statuses, the rows that no sample claims are failed downloads.
    left = [(own[taken.get(name, 0)], name) for name, own in places.items() if taken.get(name, 0) < len(own)]
    if success is not None and left:
        row, name = min(left)
        problem = f"row {row} ({column} {name!r}) is marked {SUCCESS!r} but the tar has no such sample"
        raise InputError(f"{problem}; is it the table of this tar? ecif lint tells more", url=url)
    return found


def _kept_rows(table: pl.DataFrame, samples: Sequence[Row], url: str) -> pl.Series:
    """(rows,) bool: which rows of the table stay."""
    rows = row_of(table, samples, url)
    stay = {row for row, sample in zip(rows, samples, strict=True) if not sample.removed}
    gone = set(rows) - stay
    return pl.Series("kept", [row not in gone for row in range(table.height)], dtype=pl.Boolean)


def _identities(
    table: pl.DataFrame, samples: Sequence[Row], url: str
) -> tuple[str, Sequence[str | None], Sequence[str]]:
    """The column to match by, its values, and the samples' names in it."""
    if (column := aliases.column("key", table.columns)) is not None:
        values = table[column].cast(pl.String).to_list()
        names = [sample.key for sample in samples]
        # Tars packed with `tar c ./*` or with directories: the table has the bare names.
        if any("/" in name for name in names) and not set(names) <= set(values):
            names = [name.rpartition("/")[2] for name in names]
        return column, values, names
    if (column := aliases.column("uid", table.columns)) is not None:
        return column, [aliases.as_uid(value) for value in table[column]], [sample.uid for sample in samples]
    raise InputError(f"has neither a 'key' nor a 'uid' column, only {', '.join(table.columns)}", url=url)
