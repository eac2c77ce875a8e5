"""Files on disks and in object stores behind one small object; what is visible is always complete.

`Storage` reads, lists and publishes by URL. It never appends, renames or overwrites: a file is published whole
or not at all, publishing the same bytes again is fine, other bytes under a taken name are a `ConflictError`.
That makes every stage safe to repeat and to run twice at once, at the price of one more look at each object.

Rooms: `view` (all that only looks), `urls` (what is accepted), `backends` (what serves a URL), `local` and `disk` (the
local file system), `s3`, `ranges` and `upload` (its requests, reading ahead, uploads in parts), `remote` (other
stores, through fsspec), `reading` and `writing` (what readers and writers have in common), `faults` and `secrets`
(errors, retries, and what is never printed). The guarantees are written down in docs/storage.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from ecif.errors import ConflictError, MissingFileError
from ecif.storage.backends import s3
from ecif.storage.faults import translated
from ecif.storage.reading import Reader
from ecif.storage.types import COPY_BYTES, FileInfo, PendingUpload, Published
from ecif.storage.urls import folder_of, is_inside, is_remote, join, scheme_of
from ecif.storage.view import View
from ecif.storage.writing import Writer

__all__ = [
    "FileInfo",
    "PendingUpload",
    "Published",
    "Reader",
    "Storage",
    "Writer",
    "folder_of",
    "is_inside",
    "is_remote",
    "join",
]


class Storage(View):
    """Files by URL, to read, list and publish; see `View` for the arguments, and for all that only looks.

    Picklable, safe to share between threads.
    """

    __slots__ = ()

    def create(self, url: str, *, at_most: int | None = None) -> Writer:
        """A writer whose file appears at `url` when it is finished, whole or not at all.

            with storage.create(url) as writer:
                writer.write(data)
                published = writer.finish()

        Leaving without `finish`, or by any exception, leaves neither a file nor a pending upload. Hashing and
        transfer go on in the background; at most four parts are held (8 MiB each on S3, 4 MiB elsewhere).

        Args:
            at_most: bytes that will be written at most, when that is known; S3 above 78 GiB needs it.

        Raises:
            UsageError: the URL is not one to write to.
        """
        return self._create(self.check(url, write=True), at_most, replace=False)

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
        if isinstance(data, bytes):
            with self._create(url, len(data), replace) as writer:
                writer.write(data)
                return writer.finish()
        with (
            translated(url, "write", self._options),
            open(data, "rb") as source,
            self._create(url, os.fstat(source.fileno()).st_size, replace) as writer,
        ):
            while block := source.read(COPY_BYTES):
                writer.write(block)
            return writer.finish()

    def publish_first(self, url: str, data: bytes) -> Published:
        """`publish`, but content that is there already stays, whatever it is.

        For results that may differ in the last bit between machines: the first one counts.

        Returns:
            Size and SHA-256 of what is now there: `data`, or what was first.
        """
        try:
            return self.publish(url, data)
        except ConflictError as conflict:
            try:
                return self._published(self.check(url))
            except MissingFileError:  # a directory has the name
                raise conflict from None

    def publish_json(self, url: str, value: object, *, replace: bool = False) -> Published:
        """`publish` in one canonical form: sorted keys, indent 1, a newline at the end; NaN is refused."""
        text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n"
        return self.publish(url, text.encode("ascii"), replace=replace)

    def delete(self, url: str) -> None:
        """Remove a derived view; that it is gone already is fine."""
        url = self.check(url, write=True)
        with translated(url, "delete", self._options):
            self._backend(url).delete(url)

    def uploads(self, prefix: str) -> Sequence[PendingUpload]:
        """The multipart uploads below `prefix` that are pending, of whomever; none where there is no such thing."""
        folder = self.check(prefix)
        if scheme_of(folder) != "s3":
            return []
        with translated(folder, "list", self._options):
            return s3(folder, self._options, self._patience).uploads(folder)

    def abort_upload(self, pending: PendingUpload) -> None:
        """End an upload that `uploads` listed, and free what it holds; that it is gone already is fine."""
        url = self.check(pending.url, write=True)
        with translated(url, "delete", self._options):
            s3(url, self._options, self._patience).abort(url, pending.upload_id)

    def _create(self, url: str, at_most: int | None, replace: bool) -> Writer:
        with translated(url, "write", self._options):
            return self._backend(url).create(url, at_most, replace)
