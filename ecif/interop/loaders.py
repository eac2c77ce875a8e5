"""What training loaders ask for: how many samples each tar of an output holds, and an index of all tars.

open_clip looks up `sizes.json` in the directory of the shards, webdataset and wids take the same numbers from an
index; without them a loader has to be told, or has to read everything once to know the length of an epoch. Both files
are derived: they follow from the manifests, may be replaced, and are written line by line: of a shard no more is held
than its row of `ecif.rollup`.

They lie under `_ecif/index`, because img2dataset reads every JSON file beside the shards as statistics of a shard and
fails on any other. Copies beside the shards, where open_clip finds them by itself, are made on request.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ecif import packs, restores, rollup
from ecif.interop.uids import duplicates
from ecif.layout import Layout
from ecif.storage import Storage

_KIND = "wids-shard-index-v1"


@dataclass(frozen=True, slots=True)
class Tar:
    """A tar that loaders can read.

    Attributes:
        path: relative to the output. samples: how many. size: bytes.
        restored: whether it holds samples that came back.
    """

    path: str
    samples: int
    size: int
    restored: bool = False


@dataclass(frozen=True, slots=True)
class Index:
    """What was indexed: tars, samples, bytes; and the URLs of the files written."""

    tars: int
    samples: int
    size: int
    files: tuple[str, ...]


def tars(layout: Layout, storage: Storage) -> Iterator[Tar]:
    """The tars of an output: cleaned ones by name, then packed ones, then those of restored samples."""
    for shard, kept, size in rollup.load(layout, storage).select("shard", "kept", "tar_size").iter_rows():
        if size is not None:
            yield Tar(f"{shard}.tar", kept, size)
    for packed in packs.shards(layout, storage):
        yield Tar(f"{packed.shard}.tar", packed.samples, packed.files["tar"].size)
    for back in restores.shards(layout, storage):
        yield Tar(f"{back.name(layout)}.tar", back.samples, back.files["tar"].size, restored=True)


def write_index(
    layout: Layout, storage: Storage, *, sizes: bool = True, wids: bool = True, beside: bool = False
) -> Index:
    """Write `sizes.json` and `wids.json` of an output.

    `_ecif/index/sizes.json` is `{basename: samples}`, as open_clip and webdataset look it up; where two tars share a
    basename, and for restored samples, the path relative to the output stands instead, so that a loader fails on them
    rather than counts wrong. `_ecif/index/wids.json` is a wids-shard-index-v1 with URLs relative to itself.

    Args:
        sizes, wids: which of the two.
        beside: write them beside the shards as well: a `sizes.json` in each directory that holds tars, and a
            `wids.json` at the top.

    Raises:
        InputError: a manifest is damaged. StorageError: something cannot be read or written.
    """
    with TemporaryDirectory(prefix="ecif-index-") as name:
        folder = Path(name)
        spooled = folder / "tars"
        shared = {collision.uid for collision in duplicates(_spool(tars(layout, storage), spooled))}
        files = [_Json(folder / "index-sizes", layout.sizes(), "{", "}")] if sizes else []
        indexes = (
            [(_Json(folder / "index-wids", layout.wids(), *_wids_ends(layout, storage)), "../../")] if wids else []
        )
        if wids and beside:
            top = _Json(folder / "top-wids", f"{layout.root}/wids.json", *_wids_ends(layout, storage))
            indexes.append((top, ""))
        by_folder: dict[str, _Json] = {}
        count = samples = size = 0
        with spooled.open(encoding="ascii") as lines:
            for line in lines:
                tar = Tar(*json.loads(line))
                count, samples, size = count + 1, samples + tar.samples, size + tar.size
                directory, basename = posixpath.split(tar.path)
                if sizes:
                    known = tar.path if tar.restored or basename in shared else basename
                    files[0].add(f"{json.dumps(known)}: {tar.samples}")
                if sizes and beside:
                    url = posixpath.join(layout.root, directory, "sizes.json")
                    own = by_folder.setdefault(directory, _Json(folder / f"sizes-{len(by_folder)}", url, "{", "}"))
                    own.add(f"{json.dumps(basename)}: {tar.samples}")
                for index, base in indexes:
                    entry = {"filesize": tar.size, "nsamples": tar.samples, "url": base + tar.path}
                    index.add(json.dumps(entry))
        written = [*files, *by_folder.values(), *(index for index, _ in indexes)]
        return Index(count, samples, size, tuple(one.publish(storage) for one in written))


def _spool(found: Iterator[Tar], path: Path) -> Iterator[tuple[str, str, str]]:
    """Note the tars in a file while their basenames pass; restored ones never stand under theirs."""
    with path.open("w", encoding="ascii") as out:
        for tar in found:
            out.write(json.dumps([tar.path, tar.samples, tar.size, tar.restored]) + "\n")
            if not tar.restored:
                yield posixpath.basename(tar.path), tar.path, ""


def _wids_ends(layout: Layout, storage: Storage) -> tuple[str, str]:
    name = json.dumps(posixpath.basename(storage.check(layout.root)))
    return f'{{\n "__kind__": "{_KIND}",\n "wids_version": 1,\n "name": {name},\n "shardlist": [', "]\n}"


class _Json:
    """A JSON file that is written item by item; opened only to append, since there may be many at once."""

    def __init__(self, path: Path, url: str, begin: str, end: str) -> None:
        self._path, self._url, self._begin, self._end = path, url, begin, end
        self._items: list[str] = []
        self._any = False

    def add(self, item: str) -> None:
        self._items.append(f"{',' if self._any else ''}\n {item}")
        self._any = True
        if len(self._items) >= 1000:
            self._flush()

    def publish(self, storage: Storage) -> str:
        """Put it in place of what was there; returns the URL."""
        self._items.append(("\n" if self._any else "") + self._end + "\n")
        self._flush()
        storage.publish(self._url, self._path, replace=True)
        return self._url

    def _flush(self) -> None:
        with self._path.open("a", encoding="ascii") as out:
            out.write(self._begin + "".join(self._items))
        self._begin, self._items = "", []
