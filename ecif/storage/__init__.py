"""Files on disks and in object stores behind one small object; what is visible is always complete.

`Storage` reads, lists and publishes by URL. It never appends, renames or overwrites: a file is published whole
or not at all, publishing the same bytes again is fine, other bytes under a taken name are a `ConflictError`.
That makes every stage safe to repeat and to run twice at once, at the price of one more look at each object.

Rooms: `urls` (what is accepted), `local` and `remote` (the two back ends), `reading` (readers that notice a
short body), `faults` (errors and the one layer of retries).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from ecif.errors import InputError, MissingFileError, UsageError
from ecif.storage import local, remote
from ecif.storage.faults import translated
from ecif.storage.reading import Reader
from ecif.storage.types import COPY_BYTES, FileInfo, Published
from ecif.storage.urls import (
    READ_ONLY,
    folder_of,
    is_allowed,
    is_inside,
    is_remote,
    join,
    normalise,
    resolved,
    scheme_of,
)

__all__ = ["FileInfo", "Published", "Storage", "folder_of", "is_inside", "is_remote", "join"]

# With more files than this in one directory, listing it costs fewer requests than asking for each.
_LISTING_PAYS = 16


class Storage:
    """Access to files by URL: plain paths, file, s3, gs, az, abfs, memory, and http(s) for reading.

    Picklable, safe to share between threads.

    Args:
        options: options for fsspec's object stores, e.g. `{"endpoint_url": ..., "key": ..., "secret": ...}`, or one
            such mapping per scheme: `{"s3": {...}, "https": {...}}`. Without them the usual environment counts
            (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, ...).
        allow: if given, only URLs under these prefixes may be read or written.

    Raises:
        UsageError: an allowed prefix is not an accepted URL.
    """

    __slots__ = ("_allow", "_options")

    def __init__(self, options: Mapping[str, Any] | None = None, allow: Sequence[str] = ()) -> None:
        self._options: dict[str, Any] = dict(options or {})
        self._allow: tuple[str, ...] = tuple(resolved(prefix) for prefix in allow)

    def check(self, url: str, *, write: bool = False) -> str:
        """The normalised URL (see `urls.normalise`).

        Raises:
            UsageError: the URL is not accepted, not under an allowed prefix, or not one to write to.
        """
        normal = normalise(url)
        if write and scheme_of(normal) in READ_ONLY:
            raise UsageError(f"{url!r}: web servers are for reading; write to a directory or an object store")
        if self._allow and not is_allowed(normal, self._allow):
            raise UsageError(f"{url!r} is not under an allowed prefix ({', '.join(self._allow)})")
        return normal

    def open(self, url: str) -> BinaryIO:
        """Open for sequential reading; seeking is possible, too.

        Raises:
            MissingFileError: there is no such file.
            StorageError: the storage failed; also later, from `read`, and when the file ends before its size.
        """
        url = self.check(url)
        with translated(url, "read"):
            if is_remote(url):
                return cast(BinaryIO, remote.open_reader(self._fs(url), url))
            local.info(url)
            raw = open(url, "rb")  # noqa: SIM115 - the reader closes it
            return cast(BinaryIO, Reader(raw, url, os.fstat(raw.fileno()).st_size, patient=False))

    def read_bytes(self, url: str) -> bytes:
        """The whole file; for sidecars and other small files."""
        with self.open(url) as stream:
            return stream.read()

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
        with translated(url, "read"):
            return remote.info(self._fs(url), url) if is_remote(url) else local.info(url)

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
        with translated(pattern, "list"):
            found = remote.glob(self._fs(pattern), pattern) if is_remote(pattern) else local.glob(pattern)
            return sorted(found, key=lambda file: file.url)

    def list(self, prefix: str, suffix: str = "", *, recursive: bool = True) -> list[FileInfo]:
        """The files below the directory `prefix` whose names end in `suffix`, sorted by URL; [] when it is absent.

        Unfinished files of other writers are left out. Holds one entry per file in memory.
        """
        folder = self.check(prefix)
        with translated(folder, "list"):
            if is_remote(folder):
                found = remote.listing(self._fs(folder), folder, recursive)
            else:
                found = list(local.walk(folder, recursive))
            below = folder if folder.endswith("/") else folder + "/"
            files = [file for file in found if file.url.startswith(below) and file.url.endswith(suffix)]
            return sorted(files, key=lambda file: file.url)

    def lookup(self, urls: Collection[str]) -> dict[str, FileInfo]:
        """Those of `urls` (as `check` returns them) that exist; one listing per directory where that pays."""
        folders: dict[str, list[str]] = {}
        for url in urls:
            folders.setdefault(folder_of(url), []).append(url)
        found: dict[str, FileInfo] = {}
        for folder, members in folders.items():
            if len(members) > _LISTING_PAYS and scheme_of(folder) not in READ_ONLY:
                there = {file.url: file for file in self.list(folder, recursive=False)}
                found |= {url: there[url] for url in members if url in there}
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
        digest = hashlib.sha256()
        with self.open(url) as stream:
            while block := stream.read(COPY_BYTES):
                digest.update(block)
        return f"sha256-{digest.hexdigest()}"

    def publish(self, url: str, data: bytes | Path, *, replace: bool = False) -> Published:
        """Make `data` appear at `url`, whole or not at all.

        Args:
            data: the bytes, or a finished local file, which stays the caller's to delete.
            replace: overwrite; for derived views (reports, indexes) only.

        Returns:
            Size and SHA-256 of what is now there. If the same bytes were there before, nothing is written.

        Raises:
            ConflictError: other content has the name.
            StorageError: it cannot be written.
        """
        url = self.check(url, write=True)
        with translated(url, "write"):
            if is_remote(url):
                return remote.publish(self._fs(url), url, data, replace)
            return local.publish(url, data, replace)

    def publish_json(self, url: str, value: object, *, replace: bool = False) -> Published:
        """`publish` in one canonical form: sorted keys, indent 1, a newline at the end; NaN is refused."""
        text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n"
        return self.publish(url, text.encode("ascii"), replace=replace)

    def delete(self, url: str) -> None:
        """Remove a derived view; that it is gone already is fine."""
        url = self.check(url, write=True)
        with translated(url, "delete"):
            if is_remote(url):
                remote.delete(self._fs(url), url)
            else:
                Path(url).unlink(missing_ok=True)

    def _fs(self, url: str) -> Any:
        return remote.filesystem(url, self._options)
