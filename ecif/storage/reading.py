"""What all readers have in common: they know how long their file is, because a cut body often looks like an end.

A proxy that shortens a body, or a file that is truncated while it is read, ends as `StorageError` and never as
a shorter tar: 4 % of random cuts of a tar would pass unnoticed otherwise. A reader costs one Python call per read;
callers read members, not bytes.
"""

from __future__ import annotations

import io
import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from ecif.errors import InputError, StorageError
from ecif.storage import local
from ecif.storage.faults import ShortBody, raise_translated, retrying
from ecif.storage.types import REPLACED, FileInfo

if TYPE_CHECKING:

    class _Base(io.BufferedIOBase, BinaryIO):
        pass

else:
    _Base = io.BufferedIOBase

# Headers of members are read from here; larger reads go past it.
_BUFFER = 2**18


def check_expected(there: FileInfo, expect: FileInfo | None) -> None:
    """Raise when a file is not what it was when it was listed.

    Raises:
        InputError: size or tag differ.
    """
    if expect is None or (there.size, there.etag) == (expect.size, expect.etag or there.etag):
        return
    what = f"{there.size} bytes instead of {expect.size}" if there.size != expect.size else "another tag"
    raise InputError(f"has changed since the inventory ({what}); use a new --out", url=there.url)


class Reader(_Base):
    """A file of known size, open for reading and seeking.

    Args:
        url: for messages.
        size: bytes in the file.
        options: storage options, whose secrets are kept out of messages.
    """

    def __init__(self, url: str, size: int, options: Mapping[str, Any] | None = None) -> None:
        self.url, self.size, self._position, self._options = url, size, 0, options

    @abstractmethod
    def _piece(self, position: int, wanted: int) -> bytes | memoryview:
        """At least one and at most `wanted` bytes, which are there, from `position` on."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._check_open()
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError(f"{self.url}: seeking to {start + offset}")
        self._position = start + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """As many bytes as asked for, fewer only at the end.

        Raises:
            StorageError: the file ended early, was replaced, or the storage failed.
        """
        self._check_open()
        wanted = self.size - self._position
        if size is not None and 0 <= size < wanted:
            wanted = size
        if wanted <= 0:
            return b""
        try:
            piece = self._piece(self._position, wanted)
            self._position += len(piece)
            if len(piece) == wanted:
                return bytes(piece)
            whole = io.BytesIO()  # gives out its bytes without another copy
            whole.write(piece)
            while (rest := wanted - whole.tell()) > 0:
                piece = self._piece(self._position, rest)
                self._position += len(piece)
                whole.write(piece)
            return whole.getvalue()
        except Exception as error:
            raise_translated(error, self.url, "read", self._options)

    def read1(self, size: int = -1, /) -> bytes:
        return self.read(size)

    def readinto(self, buffer: Any, /) -> int:
        """Fill `buffer`, less only at the end; one copy fewer than `read`."""
        self._check_open()
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self.size - self._position))
        filled = 0
        try:
            while filled < wanted:
                piece = self._piece(self._position, wanted - filled)
                view[filled : filled + len(piece)] = piece
                filled += len(piece)
                self._position += len(piece)
        except Exception as error:
            raise_translated(error, self.url, "read", self._options)
        return filled

    def readinto1(self, buffer: Any, /) -> int:
        return self.readinto(buffer)

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"{self.url}: reading a closed file")


class FileReader(Reader):
    """Reads a file object.

    Args:
        raw: a seekable file of fsspec or of the local file system; closed with this reader.
        patience: seconds of trying again when a read fails or brings nothing, for what travels over a network; None
            for a local file, of which it is also checked at the end that it was not written to meanwhile.
    """

    def __init__(
        self, raw: Any, url: str, size: int, options: Mapping[str, Any] | None = None, patience: float | None = None
    ) -> None:
        super().__init__(url, size, options)
        self._raw, self._there, self._patience = raw, 0, patience
        self._changed: int | None = None

    @classmethod
    def of_path(cls, path: str, expect: FileInfo | None) -> FileReader:
        """A local file."""
        local.info(path)  # opening a FIFO would wait for a writer
        raw = open(path, "rb", buffering=_BUFFER)  # noqa: SIM115 - the reader closes it
        try:
            found = os.fstat(raw.fileno())
            check_expected(local.info_of(path, found), expect)
        except BaseException:
            raw.close()
            raise
        reader = cls(raw, path, found.st_size)
        reader._changed = found.st_mtime_ns
        return reader

    def _piece(self, position: int, wanted: int) -> bytes:
        self._go(position)
        part: bytes = self._asked(lambda: self._raw.read(wanted))
        self._came(len(part))
        return part

    def readinto(self, buffer: Any, /) -> int:
        self._check_open()
        view = memoryview(buffer).cast("B")
        view = view[: max(0, min(len(view), self.size - self._position))]
        filled = 0
        try:
            self._go(self._position)
            while filled < len(view):
                rest = view[filled:]
                count = self._asked(lambda rest=rest: self._raw.readinto(rest))
                filled += count
                self._position += count
                self._came(count)
        except Exception as error:
            raise_translated(error, self.url, "read", self._options)
        return filled

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()

    def _go(self, position: int) -> None:
        if position != self._there:
            self._raw.seek(position)
            self._there = position

    def _asked(self, action: Any) -> Any:
        def ask() -> Any:
            if not (got := action()):
                raise ShortBody(f"ended after {self._there} of {self.size} bytes")
            return got

        try:
            return ask() if self._patience is None else retrying(ask, self._patience)
        except ShortBody as error:
            raise StorageError(f"{error}; the file was cut or is being changed", url=self.url) from None

    def _came(self, count: int) -> None:
        self._there += count
        if self._changed is not None and self._there == self.size:
            now = os.fstat(self._raw.fileno())
            if (now.st_size, now.st_mtime_ns) != (self.size, self._changed):
                raise StorageError(REPLACED, url=self.url)
