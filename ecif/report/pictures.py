"""The pictures of the last report, kept in the output: a run that shows the same pairs again opens no tar for them.

A pair is known by its shard, place and key, and a shard by its size and tag, so that a replaced tar is looked at again.
The file is derived: one that is damaged, or was made for pages with another number of pictures, is passed over. It
holds what the last page showed and no more, some megabytes.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields

import polars as pl

from ecif import keys
from ecif.errors import MissingFileError
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.progress import Progress
from ecif.report.gallery import Exhibit, exhibits, room_of
from ecif.report.numbers import ScoredPair
from ecif.storage import Storage

_OF_PAIR = {"shard": pl.String, "index": pl.Int64, "key": pl.String, "size": pl.Int64, "etag": pl.String}
_SHOWN = {
    **{"image": pl.String, "width": pl.Int64, "height": pl.Int64, "tiny": pl.Boolean, "caption": pl.String},
    **{"hidden": pl.Int64, "trouble": pl.String},
}
_FORMAT = 1  # of the file, and of what `gallery` makes of an image

Shown = dict[tuple[str, int], Exhibit]


def pictures(
    layout: Layout,
    storage: Storage,
    pairs: Collection[ScoredPair],
    shards: Mapping[str, Shard],
    caption: str,
    progress: Progress,
) -> Shown:
    """The exhibits of these pairs: those of the last report where it had them, the others from the tars.

    Args:
        shards: the inventory by name. caption: where captions are: `txt` or `json:FIELD`.
    """
    room = room_of(len({(pair.shard, pair.index) for pair in pairs}))
    url = layout.report_pictures(keys.digest({"format": _FORMAT, "caption": caption, "room": room}))
    known = _load(storage, url, pairs, shards)
    missing = [pair for pair in pairs if (pair.shard, pair.index) not in known]
    if not missing:
        return known
    found = known | exhibits(missing, shards, storage, caption, progress, room)
    if data := _save(found, pairs, shards):
        storage.publish(url, data, replace=True)
    return found


def _load(storage: Storage, url: str, pairs: Collection[ScoredPair], shards: Mapping[str, Shard]) -> Shown:
    try:
        table = pl.read_parquet(io.BytesIO(storage.read_bytes(url)))
    except (MissingFileError, pl.exceptions.PolarsError):
        return {}
    if dict(table.schema) != _OF_PAIR | _SHOWN:
        return {}
    wanted = {(p.shard, p.index, p.key, *_identity(shards[p.shard])) for p in pairs if p.shard in shards}
    names = [field.name for field in fields(Exhibit)]
    return {
        (row["shard"], row["index"]): Exhibit(**{name: row[name] for name in names})
        for row in table.iter_rows(named=True)
        if tuple(row[name] for name in _OF_PAIR) in wanted
    }


def _save(shown: Shown, pairs: Collection[ScoredPair], shards: Mapping[str, Shard]) -> bytes:
    """What can be shown of these pairs; empty where nothing can. A trouble may have passed the next time."""
    rows = {}
    for pair in pairs:
        exhibit = shown[pair.shard, pair.index]
        if exhibit.trouble is None and pair.shard in shards:
            of_pair = (pair.shard, pair.index, pair.key, *_identity(shards[pair.shard]))
            rows[of_pair] = dict(zip(_OF_PAIR, of_pair, strict=True)) | asdict(exhibit)
    if not rows:
        return b""
    target = io.BytesIO()
    pl.DataFrame([*rows.values()], schema=_OF_PAIR | _SHOWN).write_parquet(target)
    return target.getvalue()


def _identity(shard: Shard) -> tuple[int, str]:
    return shard.size, shard.etag
