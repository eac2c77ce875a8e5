"""The local file system: what is there. Writing is in `disk`."""

from __future__ import annotations

import contextlib
import glob as stdglob
import os
import stat
from collections.abc import Iterator

from ecif.errors import MissingFileError, StorageError
from ecif.storage.types import A_DIRECTORY, FileInfo, is_temporary


def info(path: str) -> FileInfo:
    """Size and modification time of a regular file."""
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise MissingFileError(A_DIRECTORY, url=path)
    if not stat.S_ISREG(found.st_mode):
        raise StorageError("is not a regular file", url=path)
    return info_of(path, found)


def info_of(path: str, found: os.stat_result) -> FileInfo:
    """What `os.stat` found, as our own value."""
    return FileInfo(path, found.st_size, f"mtime-{found.st_mtime_ns}")


def scan(path: str, recursive: bool = True) -> Iterator[FileInfo]:
    """The regular files below `path` in the order of their paths; nothing when it is no directory.

    Links to directories are followed, each directory once. A directory is read whole, which bounds the memory.
    """
    return _scan(path, recursive, set())


def _scan(folder: str, recursive: bool, seen: set[tuple[int, int]]) -> Iterator[FileInfo]:
    try:
        here = os.stat(folder)
        if not stat.S_ISDIR(here.st_mode) or (here.st_dev, here.st_ino) in seen:  # a loop of links
            return
        with os.scandir(folder) as entries:
            # As directories, names are compared with their slash: `a.tar` comes before `a/b.tar`.
            names = sorted(entry.name + "/" * entry.is_dir() for entry in entries)
    except (FileNotFoundError, NotADirectoryError):  # or removed while we walk
        return
    seen.add((here.st_dev, here.st_ino))
    for name in names:
        path = os.path.join(folder, name)
        if not name.endswith("/"):
            yield from _regular(path)
        elif recursive:
            yield from _scan(path[:-1], True, seen)


def glob(pattern: str) -> Iterator[FileInfo]:
    """The regular files that match."""
    for path in stdglob.iglob(pattern, recursive=True):
        yield from _regular(path)


def _regular(path: str) -> Iterator[FileInfo]:
    with contextlib.suppress(FileNotFoundError):  # a dangling link, or removed meanwhile
        found = os.stat(path)
        if stat.S_ISREG(found.st_mode) and not is_temporary(path):
            yield info_of(path, found)
