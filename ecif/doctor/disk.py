"""A directory of this machine: whether it can be written, and what publishing by hard link needs."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator

from ecif.doctor import races
from ecif.doctor.lines import Line

_FEW_BYTES = 10 * 2**30
_LONGEST_NAME = 255


def examine(path: str, folder: str, read_only: bool) -> Iterator[Line]:
    """All lines about a directory.

    Args:
        path: absolute; need not exist when it can be made.
        folder: below `path`, of everything that is written here; removed at the end, as are directories made for it.
        read_only: write nothing.
    """
    if os.path.lexists(path) and not os.path.isdir(path):
        if read_only and os.path.isfile(path):
            yield from _file(path)
        else:
            yield Line("problem", "directory", "is a file, not a directory", "name a directory")
        return
    if os.path.isdir(path):
        yield from _listing(path)
    elif read_only:
        yield Line("problem", "directory", "does not exist", "check the path; is the disk mounted?")
    if read_only:
        return
    made = _missing(folder)
    try:
        os.makedirs(folder)
    except OSError as error:
        yield _refused("write", error, os.path.dirname(made[-1]))
        return
    try:
        if not os.path.isdir(path) or path in made:
            yield Line("ok", "directory", "does not exist yet and can be made")
        yield from _written(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for empty in made:
            if os.path.isdir(empty) and not os.listdir(empty):
                os.rmdir(empty)


def _missing(folder: str) -> list[str]:
    """The directories that have to be made for `folder`, the innermost first."""
    found = []
    while not os.path.isdir(folder):
        found.append(folder)
        folder = os.path.dirname(folder)
    return found


def _file(path: str) -> Iterator[Line]:
    try:
        with open(path, "rb") as stream:
            stream.read(1)
    except OSError as error:
        yield _refused("read", error, path)
        return
    yield Line("ok", "read", f"a file of {os.path.getsize(path):,} bytes that can be read")


def _listing(path: str) -> Iterator[Line]:
    try:
        count = len(os.listdir(path))
    except OSError as error:
        yield _refused("list", error, path)
        return
    yield Line("ok", "list", f"{count:,} entries")


def _written(folder: str) -> Iterator[Line]:
    file = os.path.join(folder, "file")
    try:
        with open(file, "xb") as out:
            out.write(secrets.token_bytes(100_000))
            out.flush()
            yield Line("ok", "write", "a file was written")
            yield _synced(out.fileno())
    except OSError as error:
        yield _refused("write", error, folder)
        return
    yield _space(folder)
    yield from _links(folder, file)
    yield _cases(folder)
    yield _long_names(folder)


def _synced(handle: int) -> Line:
    try:
        os.fsync(handle)
    except OSError as error:
        return Line(
            "problem", "fsync", f"fails ({error.strerror})", "files could be lost after they are called finished"
        )
    return Line("ok", "fsync", "works")


def _space(folder: str) -> Line:
    free = shutil.disk_usage(folder).free
    detail = f"{free / 2**30:,.1f} GiB free"
    if free < _FEW_BYTES:
        return Line("warning", "space", detail, "an output takes about as much as what is kept of the input")
    return Line("ok", "space", detail)


def _links(folder: str, file: str) -> Iterator[Line]:
    try:
        os.link(file, os.path.join(folder, "link"))
    except OSError as error:
        detail = f"are not possible ({error.strerror})"
        advice = "files appear by renaming: let one run at a time write here"
        yield Line("warning", "hard links", detail, advice)
        return
    yield Line("ok", "hard links", "are possible: a finished file appears at once and replaces none")
    yield races.on_disk(folder)


def _cases(folder: str) -> Line:
    with open(os.path.join(folder, "Case"), "wb"):
        pass
    if os.path.exists(os.path.join(folder, "case")):
        advice = "shards whose names differ only in case would meet; rename them"
        return Line("warning", "upper and lower case", "are the same here", advice)
    return Line("ok", "upper and lower case", "are told apart")


def _long_names(folder: str) -> Line:
    name = "n" * _LONGEST_NAME
    try:
        with open(os.path.join(folder, name), "wb"):
            pass
    except OSError:
        longest = os.pathconf(folder, "PC_NAME_MAX")
        return Line("warning", "names", f"of at most {longest} bytes", "shards with longer names cannot be written")
    return Line("ok", "names", f"of {_LONGEST_NAME} bytes are possible")


def _refused(check: str, error: OSError, path: str) -> Line:
    advice = {
        errno.EACCES: "change its owner or mode, or run as somebody who may",
        errno.EPERM: "change its owner or mode, or run as somebody who may",
        errno.EROFS: "the disk is mounted read-only: mount it for writing, or choose another place",
        errno.ENOSPC: "make room",
        errno.EDQUOT: "the quota is used up: make room",
        errno.ENOTDIR: "a part of the path is a file",
        errno.ENOENT: "nothing can be made here",
        errno.ESTALE: "mount the network disk again",
    }.get(error.errno or 0, "")
    return Line("problem", check, f"{error.filename or path}: {error.strerror or error}", advice)
