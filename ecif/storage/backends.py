"""The three kinds of places that URLs lead to, behind one set of calls.

`Storage` says what is accepted and what errors look like; a back end does the work. All of them get checked URLs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ecif.storage import local, remote
from ecif.storage.disk import LocalWriter
from ecif.storage.ranges import RangeReader
from ecif.storage.reading import FileReader, Reader
from ecif.storage.s3 import S3Store
from ecif.storage.types import FileInfo
from ecif.storage.upload import S3Writer
from ecif.storage.urls import is_remote, scheme_of
from ecif.storage.writing import Writer


class Backend(Protocol):
    """What `Storage` asks for; its methods of the same names say what they return and raise."""

    def open(self, url: str, expect: FileInfo | None) -> Reader: ...
    def info(self, url: str) -> FileInfo: ...
    def modified(self, url: str) -> datetime: ...
    def glob(self, pattern: str) -> Iterable[FileInfo]: ...
    def scan(self, folder: str, recursive: bool, first: str) -> Iterator[FileInfo]: ...
    def create(self, url: str, at_most: int | None, replace: bool) -> Writer: ...
    def delete(self, url: str) -> None: ...


class Disk:
    """The local file system."""

    def open(self, url: str, expect: FileInfo | None) -> Reader:
        return FileReader.of_path(url, expect)

    def info(self, url: str) -> FileInfo:
        return local.info(url)

    def modified(self, url: str) -> datetime:
        return datetime.fromtimestamp(os.stat(url).st_mtime, UTC)

    def glob(self, pattern: str) -> Iterable[FileInfo]:
        return local.glob(pattern)

    def scan(self, folder: str, recursive: bool, first: str) -> Iterator[FileInfo]:
        return local.scan(folder, recursive)

    def create(self, url: str, at_most: int | None, replace: bool) -> Writer:
        return LocalWriter(url, at_most, replace)

    def delete(self, url: str) -> None:
        Path(url).unlink(missing_ok=True)


class S3(S3Store):
    """An S3 server, with its reader and its writer."""

    def open(self, url: str, expect: FileInfo | None) -> Reader:
        return RangeReader.of_url(self, url, expect)

    def create(self, url: str, at_most: int | None, replace: bool) -> Writer:
        return S3Writer(self, url, at_most, replace)


def s3(url: str, options: Mapping[str, Any], patience: float) -> S3:
    """The S3 server of a URL."""
    return S3(remote.filesystem(url, options), options, patience)


def backend(url: str, options: Mapping[str, Any], patience: float) -> Backend:
    """What serves a URL that `urls.normalise` returned.

    Args:
        options: storage options.
        patience: seconds for which a request is tried again.

    Raises:
        UsageError: an option is wrong, or a package is missing.
    """
    if not is_remote(url):
        return Disk()
    if scheme_of(url) == "s3":
        return s3(url, options, patience)
    return remote.Store(remote.filesystem(url, options), options, patience)
