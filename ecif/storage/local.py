"""The local file system: listing, and publishing by hard link.

`os.link` is the one call that makes a finished file appear under its name and fails when the name is taken;
a rename would overwrite. Where links are unsupported (some network and FAT mounts) a rename after a check is
used, which leaves two simultaneous writers of different content a window of microseconds.
"""

from __future__ import annotations

import contextlib
import errno
import glob as stdglob
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ecif.errors import ConflictError, MissingFileError, StorageError
from ecif.storage.types import A_DIRECTORY, COPY_BYTES, TAKEN, FileInfo, Published, is_temporary, open_source

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})


def info(path: str) -> FileInfo:
    """Size and modification time of a regular file."""
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise MissingFileError(A_DIRECTORY, url=path)
    if not stat.S_ISREG(found.st_mode):
        raise StorageError("is not a regular file", url=path)
    return _info(path, found)


def _info(path: str, found: os.stat_result) -> FileInfo:
    return FileInfo(path, found.st_size, f"mtime-{found.st_mtime_ns}")


def walk(path: str, recursive: bool = True) -> Iterator[FileInfo]:
    """The regular files below `path`, links to directories followed once; nothing when it is no directory."""
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            return
    except (FileNotFoundError, NotADirectoryError):
        return
    seen: set[tuple[int, int]] = set()

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # removed while we walk
            raise error

    for folder, below, names in os.walk(path, onerror=fail, followlinks=True):
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in seen:  # a loop of links
            below.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        if not recursive:
            below.clear()
        yield from _regular(os.path.join(folder, name) for name in names)


def glob(pattern: str) -> Iterator[FileInfo]:
    """The regular files that match."""
    return _regular(stdglob.iglob(pattern, recursive=True))


def _regular(paths: Iterator[str]) -> Iterator[FileInfo]:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # a dangling link, or removed meanwhile
            found = os.stat(path)
            if stat.S_ISREG(found.st_mode) and not is_temporary(path):
                yield _info(path, found)


def publish(path: str, data: bytes | Path, replace: bool) -> Published:
    """See `Storage.publish`."""
    if not replace and os.path.lexists(path):
        return _agree(path, data)
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    # Shortened: a name may take all of the 255 bytes a directory entry has.
    temporary = os.path.join(folder, f".{name[:40]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as out:
            published = _copy(data, out)
            out.flush()
            os.fsync(out.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            try:
                _appear(temporary, path)
            except FileExistsError:
                return _agree(path, data)
        _sync_folder(folder)
        return published
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _appear(temporary: str, path: str) -> None:
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


def _copy(data: bytes | Path, out: IO[bytes]) -> Published:
    digest, size = hashlib.sha256(), 0
    with open_source(data) as source:
        while block := source.read(COPY_BYTES):
            digest.update(block)
            out.write(block)
            size += len(block)
    return Published(size, digest.hexdigest())


def _agree(path: str, data: bytes | Path) -> Published:
    """What stands at `path`, if it is the same as `data`."""
    digest, size = hashlib.sha256(), 0
    try:
        with open(path, "rb") as there, open_source(data) as source:
            while (block := source.read(COPY_BYTES)) == there.read(COPY_BYTES):
                if not block:
                    return Published(size, digest.hexdigest())
                digest.update(block)
                size += len(block)
    except (IsADirectoryError, FileNotFoundError):  # a directory or a dangling link has the name
        pass
    raise ConflictError(TAKEN, url=path)
