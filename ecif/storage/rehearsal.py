"""A storage in which everything can be tried out and nothing is changed: `--dry-run` rests on it.

What is written goes to a local scratch directory, and is read, listed and found from there under the URL that it would
have. So the code that does the work also says what it would do: one implementation, exact bytes, the same conflicts.
The trade-off: what is rehearsed takes room in the scratch directory, so the large files are counted by the commands
instead (ecif/cli/dry.py).
"""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from ecif.errors import ConflictError, MissingFileError
from ecif.storage import Storage, local
from ecif.storage.backends import Backend, Disk
from ecif.storage.disk import LocalWriter
from ecif.storage.reading import FileReader, Reader
from ecif.storage.types import COPY_BYTES, TAKEN, FileInfo, Published
from ecif.storage.writing import Writer


class Rehearsal(Storage):
    """`like`, except that what is written stays in `scratch`.

    Args:
        like: the storage that is read.
        scratch: an empty local directory, which the caller deletes.
    """

    __slots__ = ("_kept", "_scratch")

    def __init__(self, like: Storage, scratch: Path) -> None:
        super().__init__(like._options, like._allow, patience=like._patience)
        self._scratch = scratch
        self._kept: dict[str, str] = {}  # the scratch file of each URL

    def written(self) -> list[FileInfo]:
        """What would be new or replaced, in the order of the URLs."""
        return [_as(url, path) for url, path in sorted(self._kept.items())]

    def _backend(self, url: str) -> Backend:
        return _Overlay(super()._backend(url), self._kept, self._scratch)


class _Overlay:
    """A back end below what was written over it."""

    def __init__(self, below: Backend, kept: dict[str, str], scratch: Path) -> None:
        self._below, self._kept, self._scratch = below, kept, scratch

    def open(self, url: str, expect: FileInfo | None) -> Reader:
        if url in self._kept:
            return FileReader.of_path(self._kept[url], None)
        return self._below.open(url, expect)

    def info(self, url: str) -> FileInfo:
        return _as(url, self._kept[url]) if url in self._kept else self._below.info(url)

    def modified(self, url: str) -> datetime:
        return Disk().modified(self._kept[url]) if url in self._kept else self._below.modified(url)

    def glob(self, pattern: str) -> Iterable[FileInfo]:
        return self._below.glob(pattern)

    def scan(self, folder: str, recursive: bool, first: str) -> Iterator[FileInfo]:
        below = folder if folder.endswith("/") else folder + "/"
        inside = (url for url in self._kept if url.startswith(below) and url >= first)
        kept = sorted(url for url in inside if recursive or "/" not in url.removeprefix(below))
        there = (file for file in self._below.scan(folder, recursive, first) if file.url not in self._kept)
        yield from heapq.merge(there, (_as(url, self._kept[url]) for url in kept), key=lambda file: file.url)

    def create(self, url: str, at_most: int | None, replace: bool) -> Writer:
        path = self._scratch / hashlib.sha256(url.encode()).hexdigest()
        return _Trial(url, str(path), at_most, replace, self)

    def delete(self, url: str) -> None:
        self._kept.pop(url, None)

    def take(self, url: str, path: str, published: Published, replace: bool) -> None:
        """A file is finished: it counts unless the same is there already.

        Raises:
            ConflictError: other content has the name.
        """
        digest = hashlib.sha256()
        try:
            with self._below.open(url, None) as there:
                while block := there.read(COPY_BYTES):
                    digest.update(block)
        except (FileNotFoundError, MissingFileError):
            self._kept[url] = path
            return
        if digest.hexdigest() == published.sha256:
            return
        if not replace:
            raise ConflictError(TAKEN, url=url)
        self._kept[url] = path


class _Trial(LocalWriter):
    """Writes to the scratch file of a URL."""

    def __init__(self, url: str, path: str, at_most: int | None, replace: bool, overlay: _Overlay) -> None:
        super().__init__(path, at_most, replace)
        self._wanted, self._overlay = url, overlay

    def finish(self) -> Published:
        published = super().finish()
        self._overlay.take(self._wanted, self.url, published, self._replace)
        return published


def _as(url: str, path: str) -> FileInfo:
    found = local.info_of(path, os.stat(path))
    return FileInfo(url, found.size, found.etag)
