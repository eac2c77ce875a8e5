"""Writing to the local file system: a temporary file beside the target, and a hard link when it is finished.

`os.link` is the one call that makes a finished file appear under its name and fails when the name is taken;
a rename would overwrite. Where links are unsupported (some network and FAT mounts) a rename after a check is
used, which leaves two simultaneous writers of different content a window of microseconds.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from abc import abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ecif.errors import ConflictError, StorageError
from ecif.storage.types import COPY_BYTES, TAKEN, Published
from ecif.storage.writing import Writer

_ADVISES = hasattr(os, "posix_fadvise")
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})


class FileWriter(Writer):
    """Fills a temporary file in the background.

    Args:
        url: what is written, for messages.
        at_most: bytes that will be written at most, if known.
        options: storage options, whose secrets are kept out of messages.
    """

    def __init__(self, url: str, at_most: int | None, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(url, COPY_BYTES, at_most, options)
        self._temporary: str | None = None
        self._handle: int | None = None
        self._mover: ThreadPoolExecutor | None = None

    @abstractmethod
    def _begin(self) -> None:
        """Make the temporary file: set its name and its handle."""

    def _push(self, full: bytearray) -> None:
        hashed = self._hash(full)
        if self._handle is None:  # the file is there already, and only compared
            self._lend(full, hashed)
            return
        if self._mover is None:
            self._mover = ThreadPoolExecutor(1, "ecif-write")
        self._lend(full, hashed, self._mover.submit(self._put, full))

    def _put(self, part: bytearray | memoryview) -> None:
        assert self._handle is not None
        view, start = memoryview(part), 0
        while start < len(view):
            start += os.write(self._handle, view[start:])
        # Begins to write back what is dirty, so that little is left to do for the fsync at the end.
        if _ADVISES and len(view) >= COPY_BYTES:
            os.posix_fadvise(self._handle, 0, 0, os.POSIX_FADV_DONTNEED)

    def _rest(self, rest: memoryview) -> None:
        """Send the last block and wait for all."""
        self._wait()
        hashed = self._hash(rest) if self._hasher is not None else None
        if self._handle is not None:
            self._put(rest)
        if hashed is not None:
            hashed.result()
        else:
            self._digest(rest)

    def _undo(self) -> None:
        if self._mover is not None:
            self._mover.shutdown(cancel_futures=True)
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        if self._temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)


class LocalWriter(FileWriter):
    """Writes a local file; see `Storage.create`.

    Args:
        path: where it appears.
        at_most: bytes that will be written at most, if known.
        replace: take the place of what is there.
    """

    def __init__(self, path: str, at_most: int | None, replace: bool) -> None:
        super().__init__(path, at_most)
        self._replace = replace
        self._there: bool | None = None

    def _begin(self) -> None:
        folder, name = os.path.split(self.url)
        os.makedirs(folder, exist_ok=True)
        # Shortened: a name may take all of the 255 bytes a directory entry has.
        self._temporary = os.path.join(folder, f".{name[:40]}.{secrets.token_hex(8)}.tmp")
        self._handle = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def _look(self) -> None:
        if self._there is None:
            self._there = not self._replace and os.path.lexists(self.url)
            if not self._there:
                self._begin()

    def _push(self, full: bytearray) -> None:
        self._look()
        super()._push(full)

    def _appear(self, rest: memoryview) -> Published:
        self._look()
        self._rest(rest)
        if self._there:
            return self._agree()
        assert self._handle is not None
        assert self._temporary is not None
        os.fsync(self._handle)
        if self._replace:
            os.replace(self._temporary, self.url)
        else:
            try:
                _link(self._temporary, self.url)
            except FileExistsError:
                return self._agree()
        _sync_folder(os.path.dirname(self.url))
        return self._result()

    def _agree(self) -> Published:
        """What was written, if the same stands at the path."""
        published = self._result()
        try:
            with open(self.url, "rb") as there:
                if os.fstat(there.fileno()).st_size == published.size:
                    digest = hashlib.sha256()
                    while block := there.read(COPY_BYTES):
                        digest.update(block)
                    if digest.hexdigest() == published.sha256:
                        return published
        except FileNotFoundError:
            if not os.path.lexists(self.url):
                raise StorageError(
                    "was removed while it was compared with what is there; run again", url=self.url
                ) from None
        except IsADirectoryError:
            pass
        raise ConflictError(TAKEN, url=self.url)


def _link(temporary: str, path: str) -> None:
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists", path) from error
        os.rename(temporary, path)


def _sync_folder(folder: str) -> None:
    # Without it the name may be gone after a power cut; some network mounts cannot do it.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
