"""The packed shards of an output (`--repack N`): their manifests, and where each of their samples comes from.

A packed shard has a manifest like every other, written last, and a table with the origin of its samples. Which
samples belong into it the map says (`packmap`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from ecif.ahead import ahead
from ecif.errors import InputError, MissingFileError
from ecif.layout import Layout
from ecif.manifest import FileMark, exact_fields
from ecif.packmap import PackMap, Target, load
from ecif.storage import Storage

# The files of a packed shard; a parquet only where an input has one. `table` says where its samples come from.
FILES = ("tar", "parquet", "stats", "table")

TABLE = {
    "shard": pl.String,  # of the input
    "index": pl.UInt32,  # position of the sample in it
    "key": pl.String,
    "uid": pl.String,
    "position": pl.UInt32,  # in the packed shard
}
"""Columns of a packed shard's table, one row per sample in the order of its tar."""


@dataclass(frozen=True, slots=True)
class PackInput:
    """What a packed shard has from one input: the tar, and which of its survivors."""

    url: str
    size: int
    etag: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class PackManifest:
    """A finished packed shard.

    Args:
        shard: its name.
        generation: whose map it follows.
        samples: how many it holds.
        inputs: what it was made from, by name of the input shard; sorted by name is the order in the tar.
        files: marks of the files written, by kind (`FILES`).
        fit_key, score_key, decision_key: what decided.
        algo_version: `ecif.ALGO_VERSION` of the writer.

    Raises:
        ValueError: the counts contradict each other, or a file is of an unknown kind.
    """

    shard: str
    generation: int
    samples: int
    inputs: dict[str, PackInput]
    files: dict[str, FileMark]
    fit_key: str
    score_key: str
    decision_key: str
    algo_version: int

    def __post_init__(self) -> None:
        if any(not 0 <= one.first < one.last for one in self.inputs.values()):
            raise ValueError("a range of survivors is empty")
        if sum(one.last - one.first for one in self.inputs.values()) != self.samples:
            raise ValueError(f"the ranges do not add up to {self.samples} samples")
        if unknown := sorted(set(self.files) - set(FILES)):
            raise ValueError(f"unknown kind of file: {', '.join(unknown)}")

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they are written."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object, url: str) -> PackManifest:
        """The manifest that `to_json` gave.

        Args:
            url: where it was read, for messages.

        Raises:
            InputError: a field is missing, unknown, of the wrong type, or contradicts another.
        """
        try:
            given = exact_fields(cls, value)
            inputs = sorted(given["inputs"].items())
            given["inputs"] = {shard: PackInput(**exact_fields(PackInput, one)) for shard, one in inputs}
            given["files"] = {kind: FileMark(**exact_fields(FileMark, mark)) for kind, mark in given["files"].items()}
            return cls(**given)
        except (TypeError, ValueError) as error:
            raise InputError(f"is not a valid manifest of a packed shard: {error}", url=url) from error


def urls(name: str, generation: int, layout: Layout) -> dict[str, str]:
    """Where the files of a packed shard lie, by kind; a parquet need not exist."""
    return {
        "tar": layout.tar(name),
        "parquet": layout.parquet(name),
        "stats": layout.stats(name),
        "table": layout.pack_table(generation, name),
    }


def read(target: Target, layout: Layout, storage: Storage) -> PackManifest | None:
    """The manifest of a packed shard, None when it is not finished.

    Raises:
        InputError: the file is damaged, or is the manifest of another shard.
    """
    url = layout.pack_manifest(target.generation, target.name)
    try:
        found = PackManifest.from_json(storage.read_json(url), url)
    except MissingFileError:
        return None
    if (found.shard, found.generation) != (target.name, target.generation):
        raise InputError(f"is the manifest of packed shard {found.shard} of generation {found.generation}", url=url)
    return found


def done(packed: PackMap, layout: Layout, storage: Storage) -> set[str]:
    """The names of the packed shards that are finished, by one listing per generation."""
    folders = [f"{storage.check(layout.pack_manifests(one.number))}/" for one in packed.generations]
    files = ((folder, file.url) for folder in folders for file in storage.list(folder, ".json"))
    return {url.removeprefix(folder).removesuffix(".json") for folder, url in files}


def shards(layout: Layout, storage: Storage) -> Iterator[PackManifest]:
    """The manifests of the finished packed shards, in order, read a few ahead."""
    for found in ahead(lambda target: read(target, layout, storage), load(layout, storage).targets()):
        if found is not None:
            yield found


def lookup(layout: Layout, storage: Storage) -> Iterator[pl.DataFrame]:
    """From old to new: the tables of the finished packed shards, in order.

    Yields:
        One row per sample, with the columns of `TABLE` and `packed`, the name of the packed shard.
    """
    for found in shards(layout, storage):
        url, mark = layout.pack_table(found.generation, found.shard), found.files["table"]
        table = pl.read_parquet(io.BytesIO(storage.read_marked(url, mark.size, mark.sha256)))
        yield table.with_columns(packed=pl.lit(found.shard))
