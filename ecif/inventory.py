"""What the corpus was when it was first looked at: one record per shard, never changed afterwards.

The inventory grows by files (`_ecif/inventory/000000-DIGEST.json`, `000001-DIGEST.json`, ...): each holds only shards
that none before it lists, so arrivals extend it and nothing is rewritten. Two writers that take the same number write
two files, since the names hold digests of the contents, so neither can lose what the other lists; a shard that both
list has the same facts in both. A listed shard that changed is refused: its scores would belong to other bytes. Taking
it costs one listing per directory and one small file per shard (`_stats.json`), or a pass over the tar's headers where
that is missing.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from ecif.errors import BadTarError, ConflictError, InputError, MissingFileError, StorageError, UsageError
from ecif.layout import Layout
from ecif.shards.tar import count_samples
from ecif.sources import Expansion, Found, Listed, look_up, sidecars_of
from ecif.storage import FileInfo, Storage, folder_of, is_inside

# Small files that are read at the same time; the waiting is for the network.
_AT_ONCE = 16
# Shards of one file. What is described but not written yet is held; what a killed run has written, the next one keeps.
FILE_SHARDS = 20_000
# The smallest sample: one header block and no data.
_SMALLEST_SAMPLE = 512


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar as it was inventoried.

    Args:
        name: path relative to its source root, without `.tar`.
        url: where it is.
        size: bytes.
        etag: changes when the file is replaced (see `storage.FileInfo`).
        samples: how many it holds; None when its headers could not be read to the end. Not a fact that is relied on.
        parquet: URL of the sidecar beside it, if there is one.
        stats: URL of the `_stats.json` beside it, if there is one.
    """

    name: str
    url: str
    size: int
    etag: str
    samples: int | None
    parquet: str | None
    stats: str | None

    @property
    def info(self) -> FileInfo:
        """The tar as it was: what a reader has to find again."""
        return FileInfo(self.url, self.size, self.etag)


@dataclass(frozen=True, slots=True)
class Inventory:
    """All shards of an output, sorted by name, and the gaps of the ranges that were asked for (URLs)."""

    shards: tuple[Shard, ...]
    missing: tuple[str, ...]

    def by_name(self) -> dict[str, Shard]:
        """The shards by name."""
        return {shard.name: shard for shard in self.shards}

    def total_samples(self) -> int | None:
        """Samples of the whole corpus; None when one shard's number is unknown."""
        counts = [shard.samples for shard in self.shards]
        return None if None in counts else sum(count for count in counts if count is not None)


def take(expansion: Expansion, layout: Layout, storage: Storage, extra: Mapping[str, Any]) -> Inventory:
    """Bring the inventory of an output up to date with `expansion`.

    Args:
        expansion: the shards that were asked for.
        extra: what is saved beside them (settings, versions); not the keys `shards` and `missing`.

    Returns:
        Everything the output's inventory lists, also what earlier calls brought in.

    Raises:
        UsageError: the output lies inside an input directory, or an input inside the output.
        InputError: a listed shard has changed since, or a file of the inventory is damaged.
        ConflictError: a name is listed with another URL, or a URL with another name.
        MissingFileError: a shard is gone.
        StorageError: the storage failed, and not only for single shards.
    """
    _refuse_overlap(expansion, layout)
    there = expansion.listed
    if rest := [found.url for found in expansion.shards if found.url not in there]:
        there = {**there, **look_up(rest, storage)}
    known = _Known()
    known.read(layout, storage)
    new = _not_listed(expansion.shards, known.shards, there)
    gaps, own = sorted(expansion.missing), {}
    for start in range(0, len(new), FILE_SHARDS):
        shards = _describe(new[start : start + FILE_SHARDS], there, storage)
        record = {**extra, "shards": [_facts(shard) for shard in shards], "missing": gaps if start == 0 else []}
        text = json.dumps(record, sort_keys=True).encode()
        url = layout.inventory(known.number, hashlib.sha256(text).hexdigest()[:8])
        storage.publish_json(url, record)
        own[storage.check(url)] = shards[0].name
        known.add(shards, url)
    # Look again: others may have listed shards meanwhile, and facts that contradict each other show here.
    if new and (lost := own.keys() - known.read(layout, storage)):
        name = own[min(lost)]
        raise StorageError(f"does not list shard {name!r}, which was written to it", url=layout.inventories())
    return _inventory(known, expansion.missing)


def load(layout: Layout, storage: Storage) -> Inventory:
    """The inventory as it stands.

    Raises:
        UsageError: there is none.
        InputError: one of its files is damaged.
    """
    known = _Known()
    if not known.read(layout, storage):
        raise UsageError(f"{layout.root} holds no inventory ({layout.inventories()}); run `ecif score` or `ecif clean`")
    return _inventory(known)


def _inventory(known: _Known, gaps: Iterable[str] = ()) -> Inventory:
    found = {shard.url for shard in known.shards.values()}
    missing = known.missing.union(gaps) - found
    return Inventory(tuple(known.shards[name] for name in sorted(known.shards)), tuple(sorted(missing)))


@dataclass(slots=True)
class _Known:
    """What the files that were read so far list: shards by name, gaps, and the number that the next file gets."""

    shards: dict[str, Shard] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    number: int = 0
    files: set[str] = field(default_factory=set)

    def read(self, layout: Layout, storage: Storage) -> set[str]:
        """Take in the files that are new since the last time; returns the URLs of all that are there."""
        there = {file.url for file in storage.list(layout.inventories(), ".json")}
        for url in sorted(there - self.files):
            listed, gaps = _parse(storage.read_json(url), url)
            self.missing |= gaps
            self.add(listed, url)
        return there

    def add(self, listed: Iterable[Shard], url: str) -> None:
        """Take in one file."""
        stem = posixpath.basename(url).removesuffix(".json").partition("-")[0]
        if not stem.isdecimal():
            raise InputError("is not a file of an inventory; remove it", url=url)
        self.number = max(self.number, int(stem) + 1)
        self.files.add(url)
        for shard in listed:
            before = self.shards.setdefault(shard.name, shard)
            if before == shard:
                continue
            if replace(shard, samples=before.samples) != before:
                problem = f"lists shard {shard.name!r} again with other facts: it changed while two runs looked at it"
                raise ConflictError(f"{problem}; remove one of the two files of the inventory", url=url)
            if before.samples is None:
                self.shards[shard.name] = shard


def _parse(record: object, url: str) -> tuple[list[Shard], set[str]]:
    try:
        if not isinstance(record, dict):
            raise TypeError("not an object")
        shards = [Shard(**item) for item in record["shards"]]
        missing = set(record["missing"])
        for shard in shards:
            texts = (shard.name, shard.url, shard.etag, shard.parquet or "", shard.stats or "")
            numbers = (shard.size, 0 if shard.samples is None else shard.samples)
            if not all(isinstance(text, str) for text in texts) or not all(type(n) is int for n in numbers):
                raise TypeError(f"shard {shard.name!r} has a field of the wrong type")
    except (KeyError, TypeError) as error:
        raise InputError(f"is not a file of an inventory: {error}", url=url) from error
    return shards, missing


def _refuse_overlap(expansion: Expansion, layout: Layout) -> None:
    for folder in sorted({folder_of(found.url) for found in expansion.shards}):
        if is_inside(layout.root, folder):
            raise UsageError(f"the output {layout.root} lies inside the input directory {folder}; choose another --out")
        if is_inside(folder, layout.root):
            raise UsageError(f"the input directory {folder} lies inside the output {layout.root}; choose another --out")


def _not_listed(asked: Iterable[Found], listed: Mapping[str, Shard], there: Mapping[str, Listed]) -> list[Found]:
    """The shards that no file lists yet; those listed are compared with what is there now."""
    names = {shard.url: shard.name for shard in listed.values()}
    new = []
    for found in asked:
        file = there.get(found.url)
        if file is None:
            raise MissingFileError("does not exist any more", url=found.url)
        if names.get(found.url, found.name) != found.name:
            raise ConflictError(
                f"is in the inventory as {names[found.url]!r} and would now be {found.name!r}: "
                "name the sources as in the first run, or use a new --out",
                url=found.url,
            )
        before = listed.get(found.name)
        if before is None:
            new.append(found)
        elif before.url != found.url:
            raise ConflictError(f"the inventory lists {found.name!r} as {before.url}; use a new --out", url=found.url)
        elif (before.size, before.etag) != (file.size, file.etag):
            raise InputError("has changed since it was inventoried; use a new --out", url=found.url)
    return new


def _describe(shards: list[Found], there: Mapping[str, Listed], storage: Storage) -> list[Shard]:
    failures: list[StorageError] = []

    def describe(found: Found) -> Shard:
        tar, (parquet, stats) = there[found.url], sidecars_of(found.url)
        url = stats if tar.stats else None
        samples = None
        # One file that cannot be read is that shard's problem, and the stage that needs it says so. Many in a row
        # are the storage's.
        if len(failures) < _AT_ONCE:
            try:
                samples = _samples(found.url, tar.size, url, storage)
                failures.clear()
            except StorageError as error:
                failures.append(error)
        return Shard(found.name, found.url, tar.size, tar.etag, samples, parquet if tar.parquet else None, url)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        described = list(pool.map(describe, shards))
    if len(failures) >= _AT_ONCE:
        raise failures[0]
    return described


def _facts(shard: Shard) -> dict[str, Any]:
    return {name: getattr(shard, name) for name in Shard.__slots__}


def _samples(tar: str, size: int, stats: str | None, storage: Storage) -> int | None:
    if stats is not None:
        try:
            record = storage.read_json(stats)
        except StorageError:
            raise
        except InputError:
            record = None  # damaged, or gone: the headers tell, and `apply` names the sidecar
        count = record.get("successes") if isinstance(record, dict) else None
        if type(count) is int and 0 <= count <= size // _SMALLEST_SAMPLE:
            return count
    try:
        with storage.open(tar) as stream:
            return count_samples(stream, tar)
    except BadTarError:
        return None  # every later stage that reads it reports where it is broken
