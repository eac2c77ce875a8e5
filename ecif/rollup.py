"""The manifests of an output as one table, each of them read once in the life of the output.

Index, report and outcome add up every manifest. One request for each shard of the corpus, in every run, would make an
arrival into a hundred thousand shards cost hours; so what manifests say is kept in one file beside them. A row counts
only while the listing gives its manifest the size and tag that it had, so the file is a convenience and no truth: it
may be old, damaged or gone, and what it lacks is read again. The price is that the file is written whole whenever
something is new: some 60 bytes a shard.
"""

from __future__ import annotations

import io
import json

import polars as pl

from ecif import manifest
from ecif.ahead import ahead
from ecif.errors import MissingFileError
from ecif.layout import Layout
from ecif.manifest import Manifest
from ecif.storage import Storage

_LISTED = {"shard": pl.String, "size": pl.Int64, "etag": pl.String}
_SAID = {
    "decision_key": pl.String,
    "samples": pl.Int64,
    "kept": pl.Int64,
    "dropped": pl.Int64,
    "quarantined": pl.Int64,
    "statuses": pl.String,
    "tar_size": pl.Int64,
}
SCHEMA = _LISTED | _SAID


def load(layout: Layout, storage: Storage) -> pl.DataFrame:
    """What the manifests say, by a listing, the rollup, and a reading of each manifest that is not in it.

    Returns:
        One row per manifest, sorted by `shard`: `size` and `etag` of the manifest as listed; `decision_key`,
        `samples`, `kept`, `dropped`, `quarantined` as written there; `statuses`, a JSON object of counts; `tar_size`,
        bytes of the cleaned tar, null where there is none.

    Raises:
        InputError: a manifest is damaged. StorageError: something cannot be read.
    """
    return _load(layout, storage)[0]


def refresh(layout: Layout, storage: Storage) -> pl.DataFrame:
    """`load`, and write down what is new for those who come after.

    Raises:
        InputError: a manifest is damaged. StorageError: something cannot be read or written.
    """
    table, changed = _load(layout, storage)
    if changed:
        data = io.BytesIO()
        table.write_parquet(data)
        storage.publish(layout.manifest_rollup(), data.getvalue(), replace=True)
    return table


def _load(layout: Layout, storage: Storage) -> tuple[pl.DataFrame, bool]:
    listed, known = _listing(layout, storage), _known(layout, storage)
    joined = listed.join(known, on=list(_LISTED), how="left", maintain_order="left")
    old, new = joined.filter(pl.col("samples").is_not_null()), joined.filter(pl.col("samples").is_null())
    found = ahead(lambda name: manifest.read(layout, storage, name), new["shard"])
    said = [_said(one) if one is not None else (None,) * len(_SAID) for one in found]
    read = pl.concat([new.select(*_LISTED), pl.DataFrame(said, schema=_SAID, orient="row")], how="horizontal")
    # A manifest that was removed since it was listed is none.
    table = pl.concat([old, read.filter(pl.col("samples").is_not_null())]).sort("shard")
    return table, bool(read.height or known.height != old.height)


def _said(one: Manifest) -> tuple[str | int | None, ...]:
    tar = one.files.get("tar")
    counts = (one.samples, one.kept, one.dropped, one.quarantined)
    return one.decision_key, *counts, json.dumps(one.statuses, sort_keys=True), tar.size if tar else None


def _listing(layout: Layout, storage: Storage) -> pl.DataFrame:
    folder = storage.check(layout.manifests()) + "/"
    files = storage.list(folder, ".json")
    columns = {
        "shard": [file.url[len(folder) : -len(".json")] for file in files],
        "size": [file.size for file in files],
        "etag": [file.etag for file in files],
    }
    return pl.DataFrame(columns, schema=_LISTED)


def _known(layout: Layout, storage: Storage) -> pl.DataFrame:
    try:
        table = pl.read_parquet(io.BytesIO(storage.read_bytes(layout.manifest_rollup())))
    except (MissingFileError, pl.exceptions.PolarsError):
        table = pl.DataFrame(schema=SCHEMA)
    if table.schema != SCHEMA or table["shard"].is_duplicated().any():
        return pl.DataFrame(schema=SCHEMA)  # of another version, or not ours
    return table
