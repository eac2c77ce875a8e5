"""The survivors of a shard as a table with the column names of CommonPool, the scores beside them.

CommonPool publishes its metadata as parquet files with fixed names and types, and the filters written for it read
nothing else. What a survivor's row says comes from the table beside the input tar under whatever names it has there
(`aliases`), or, where there is none, from the `.json` and `.txt` members: that costs one read of the tar. The uid and
the scores are those of the score table. What is not known is null; similarities and face boxes have no column at all
then, because a filter on an empty one would throw everything away.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from ecif.errors import InputError
from ecif.interop import aliases
from ecif.interop.columns import PREFIX
from ecif.interop.outcome import Outcome
from ecif.inventory import Shard
from ecif.shards import decode, sidecars
from ecif.shards.samples import Sample, group
from ecif.shards.sidecars import Row
from ecif.shards.tar import Limits, read_members
from ecif.storage import Storage

ALWAYS: dict[str, pl.DataType] = {
    "url": pl.String(),
    "text": pl.String(),
    "original_width": pl.Int64(),
    "original_height": pl.Int64(),
    "sha256": pl.String(),
}
"""Columns of every table beside `uid`; null where the input does not tell."""

WHERE_KNOWN: dict[str, pl.DataType] = {
    "clip_b32_similarity_score": pl.Float32(),
    "clip_l14_similarity_score": pl.Float32(),
    "face_bboxes": pl.List(pl.List(pl.Float64())),
}
"""Columns of the tables whose input has them."""

_BEFORE_SCORES = ("uid", "url", "text", "original_width", "original_height", *WHERE_KNOWN, "sha256", "key")
_OF_THE_SAMPLE = ("index", "key", "uid", "gone", "shard", "batch", "position", "batch_n")


def table(shard: Shard, outcome: Outcome, storage: Storage, limits: Limits = Limits()) -> pl.DataFrame:
    """The survivors of a shard, in the order of its tar.

    Args:
        outcome: of this shard, with all columns of its score table.
        limits: what of a `.json` or `.txt` member is read.

    Returns:
        `uid`, the columns of `ALWAYS` and those of `WHERE_KNOWN` that the input has, in CommonPool's order; then `key`,
        and status and scores with names that begin with `ecif_`.

    Raises:
        InputError: the table or the tar of the input is damaged, or is not the one that was scored.
    """
    samples = outcome.samples
    facts = (
        _of_table(shard.parquet, samples, storage) if shard.parquet else _of_members(shard, samples, storage, limits)
    )
    scores = samples.drop(*_OF_THE_SAMPLE, strict=False).rename(lambda name: PREFIX + name)
    whole = pl.concat([samples.select("uid", "key"), facts, scores], how="horizontal")
    first = [name for name in _BEFORE_SCORES if name in whole.columns]
    return whole.filter(~samples["gone"]).select(*first, pl.exclude(first))


def encode(table: pl.DataFrame) -> bytes:
    """The table as a parquet file."""
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def unknown(table: pl.DataFrame) -> list[str]:
    """The columns of `ALWAYS` of which no row knows anything; none for a table without rows."""
    return [name for name in ALWAYS if table.height and table[name].null_count() == table.height]


def _of_table(url: str, samples: pl.DataFrame, storage: Storage) -> pl.DataFrame:
    """What the table beside the input says of the samples, in their order."""
    beside = sidecars.read_parquet(storage.read_bytes(url), url)
    rows = [Row(key, uid) for key, uid in samples.select("key", "uid").iter_rows()]
    own = beside[sidecars.row_of(beside, rows, url)]
    found = {name: aliases.column(name, own.columns) for name in (*ALWAYS, *WHERE_KNOWN)}
    columns = []
    for name, kind in (ALWAYS | WHERE_KNOWN).items():
        source = found[name]
        if source is not None and name == "face_bboxes":
            columns.append(own[source].alias(name))  # whatever its type: nothing else has one of this name
        elif source is not None and not own[source].dtype.is_nested():
            columns.append(own[source].cast(kind, strict=False).alias(name))
        elif name in ALWAYS:
            columns.append(pl.Series(name, [None] * own.height, dtype=kind))
    return pl.DataFrame(columns)


def _of_members(shard: Shard, samples: pl.DataFrame, storage: Storage, limits: Limits) -> pl.DataFrame:
    """What the members of the samples say, in their order."""
    keys = samples["key"].to_list()
    said: dict[str, list[Any]] = {name: [] for name in (*ALWAYS, *WHERE_KNOWN)}
    for key, facts in _read_members(shard, storage, limits):
        place = len(said["url"])
        if place >= len(keys) or keys[place] != key:
            raise InputError(f"sample {place}, {key!r}, is not the one that was scored", url=shard.url)
        for name, values in said.items():
            values.append(_plain(facts.get(name), name))
    if len(said["url"]) != len(keys):
        raise InputError(f"holds {len(said['url'])} samples, its score table {len(keys)}", url=shard.url)
    columns = [
        pl.Series(name, said[name], dtype=kind, strict=False)
        for name, kind in (ALWAYS | WHERE_KNOWN).items()
        if name in ALWAYS or any(value is not None for value in said[name])
    ]
    return pl.DataFrame(columns)


def _read_members(shard: Shard, storage: Storage, limits: Limits) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Key and facts of every sample of a tar."""
    with storage.open(shard.url, expect=shard.info) as stream:
        for item in group(read_members(stream, shard.url, limits), limits, shard.url):
            if not isinstance(item, Sample):
                continue
            members = item.extensions()
            record = decode.record(members["json"].data if "json" in members else None, limits)
            facts = {name: aliases.value(name, record) for name in (*ALWAYS, *WHERE_KNOWN)}
            if "txt" in members and len(members["txt"].data) <= limits.caption_bytes:
                facts["text"] = str(members["txt"].data, "utf-8", "replace")
            yield item.key, facts


def _plain(value: object, name: str) -> object:
    """A value of a `.json` member that fits its column, else null."""
    if name == "face_bboxes":
        boxes = value if isinstance(value, list) else [None]
        return value if all(isinstance(box, list) and all(map(_is_number, box)) for box in boxes) else None
    if (ALWAYS | WHERE_KNOWN)[name] == pl.String:
        return value if isinstance(value, str) and aliases.as_uid(value) is not None else None
    return value if _is_number(value) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
