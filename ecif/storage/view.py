"""Reading and listing: what can be known of a place without changing it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from ecif.errors import InputError, MissingFileError, UsageError
from ecif.storage.backends import Backend, backend
from ecif.storage.faults import PATIENCE, raise_translated, translated
from ecif.storage.reading import Reader
from ecif.storage.secrets import remember
from ecif.storage.types import COPY_BYTES, FileInfo, Published, is_temporary
from ecif.storage.urls import READ_ONLY, folder_of, is_allowed, is_remote, normalise, resolved, scheme_of

# With more files than this in one directory, listing it costs fewer requests than asking for each.
_LISTING_PAYS = 16


class View:
    """Files by URL, to look at: plain paths, file, s3, gs, az, abfs, memory, and http(s) for reading.

    Picklable, safe to share between threads. Neither its `repr` nor any error shows a secret of the options.

    Args:
        options: options for fsspec's object stores, e.g. `{"endpoint_url": ..., "key": ..., "secret": ...}`, or one
            such mapping per scheme: `{"s3": {...}, "https": {...}}`. Without them the usual environment counts
            (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, ...).
        allow: if given, only URLs under these prefixes may be read or written.
        patience: seconds for which a request is tried again, in all, when it fails for a reason that may pass.

    Raises:
        UsageError: an allowed prefix is not an accepted URL.
    """

    __slots__ = ("_allow", "_options", "_patience")

    def __init__(
        self, options: Mapping[str, Any] | None = None, allow: Sequence[str] = (), *, patience: float = PATIENCE
    ) -> None:
        self._options: dict[str, Any] = dict(options or {})
        remember(self._options)
        self._allow: tuple[str, ...] = tuple(resolved(prefix) for prefix in allow)
        self._patience = patience

    def __repr__(self) -> str:
        return f"{type(self).__name__}(allow={self._allow!r}, patience={self._patience!r})"

    def check(self, url: str, *, write: bool = False) -> str:
        """The normalised URL (see `urls.normalise`).

        Raises:
            UsageError: the URL is not accepted, not under an allowed prefix, or not one to write to.
        """
        try:
            normal = normalise(url)
            if write and scheme_of(normal) in READ_ONLY:
                raise UsageError(f"{url!r}: web servers are for reading; write to a directory or an object store")
            if self._allow and not is_allowed(normal, self._allow):
                raise UsageError(f"{url!r} is not under an allowed prefix ({', '.join(self._allow)})")
        except UsageError as error:  # which may quote a password or a signature
            raise_translated(error, url, "read", self._options)
        return normal

    def open(self, url: str, *, expect: FileInfo | None = None) -> Reader:
        """Open for sequential reading; seeking is possible, too. S3 is read ahead in the background.

        A short body is asked for again; an object that is replaced while it is read is a `StorageError`.

        Args:
            expect: what the file was when it was listed; its size and tag must be the same still.

        Raises:
            MissingFileError: there is no such file.
            InputError: the file is not the one that is expected.
            StorageError: the storage failed; also later, from `read`, and when the file ends before its size.
        """
        url = self.check(url)
        with translated(url, "read", self._options):
            return self._backend(url).open(url, expect)

    def read_bytes(self, url: str) -> bytes:
        """The whole file; for sidecars and other small files."""
        with self.open(url) as stream:
            return stream.read()

    def read_marked(self, url: str, size: int, sha256: str) -> bytes:
        """The whole file, proven to hold the bytes that were written down.

        Raises:
            InputError: it holds others.
        """
        with self.open(url) as stream:
            if stream.size != size:
                raise InputError(f"has {stream.size} bytes, but {size} were recorded; it was changed", url=url)
            data = stream.read()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise InputError("has another SHA-256 than was recorded; it was changed", url=url)
        return data

    def read_json(self, url: str) -> Any:
        """The parsed file.

        Raises:
            InputError: it is not JSON in UTF-8.
        """
        data = self.read_bytes(url)
        try:
            return json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"is not valid JSON: {error}", url=url) from error

    def info(self, url: str) -> FileInfo:
        """Size and tag of a file.

        Raises:
            MissingFileError: there is no such file (a directory is none).
            StorageError: that could not be found out.
        """
        url = self.check(url)
        with translated(url, "read", self._options):
            return self._backend(url).info(url)

    def modified(self, url: str) -> datetime:
        """When a file was written last, by the clock of its storage.

        Raises:
            MissingFileError: there is no such file.
            StorageError: that could not be found out.
        """
        url = self.check(url)
        with translated(url, "read", self._options):
            return self._backend(url).modified(url)

    def exists(self, url: str) -> bool:
        """Whether the file is there. False only when it is truly absent: a refusal is a `StorageError`."""
        try:
            self.info(url)
        except MissingFileError:
            return False
        return True

    def glob(self, pattern: str) -> list[FileInfo]:
        """The files that match (`*`, `?`, `[...]` within a directory, `**` across), sorted by URL."""
        pattern = self.check(pattern)
        with translated(pattern, "list", self._options):
            return sorted(self._backend(pattern).glob(pattern), key=lambda file: file.url)

    def scan(self, prefix: str, suffix: str = "", *, recursive: bool = True) -> Iterator[FileInfo]:
        """The files below the directory `prefix` whose names end in `suffix`, in the order of their URLs.

        Nothing when the directory is absent. Unfinished files of other writers are left out. Holds one page of the
        listing (S3) or the names of one directory and of those above it (disk) in memory; other stores hold all.

        Raises:
            StorageError: it cannot be listed; also while iterating.
        """
        return self._scan(self.check(prefix), suffix, recursive)

    def list(self, prefix: str, suffix: str = "", *, recursive: bool = True) -> list[FileInfo]:
        """All of `scan` at once."""
        return [*self.scan(prefix, suffix, recursive=recursive)]

    def lookup(self, urls: Collection[str]) -> dict[str, FileInfo]:
        """Those of `urls` (as `check` returns them) that exist; one listing per directory where that pays."""
        folders: dict[str, set[str]] = {}
        for url in urls:
            folders.setdefault(folder_of(url), set()).add(url)
        found: dict[str, FileInfo] = {}
        for folder, members in folders.items():
            if len(members) > _LISTING_PAYS and scheme_of(folder) not in READ_ONLY:
                for file in self._scan(self.check(folder), "", False, min(members), max(members)):
                    if file.url in members:
                        found[file.url] = file
                continue
            for url in members:
                try:
                    found[url] = self.info(url)
                except MissingFileError:
                    continue
        return found

    def fingerprint(self, url: str) -> str:
        """What identifies the content: `etag-{etag}-{size}` on object stores, `sha256-{hex}` elsewhere."""
        url = self.check(url)
        if is_remote(url) and scheme_of(url) != "memory":
            file = self.info(url)
            return f"etag-{file.etag}-{file.size}"
        return f"sha256-{self._published(url).sha256}"

    def _scan(
        self, folder: str, suffix: str, recursive: bool, first: str = "", last: str | None = None
    ) -> Iterator[FileInfo]:
        # `first` and `last` bound the URLs, so that a look-up in a large directory lists only a part of it.
        below = folder if folder.endswith("/") else folder + "/"
        with translated(folder, "list", self._options):
            for file in self._backend(folder).scan(folder, recursive, first):
                if last is not None and file.url > last:
                    return
                if file.url.startswith(below) and file.url.endswith(suffix) and not is_temporary(file.url):
                    yield file

    def _published(self, url: str) -> Published:
        digest, size = hashlib.sha256(), 0
        with self.open(url) as stream:
            while block := stream.read(COPY_BYTES):
                digest.update(block)
                size += len(block)
        return Published(size, digest.hexdigest())

    def _backend(self, url: str) -> Backend:
        return backend(url, self._options, self._patience)
