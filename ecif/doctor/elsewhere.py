"""Places that are neither S3 nor a disk: web servers, which are for reading, and other object stores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from fsspec.asyn import sync

from ecif.doctor.lines import Line
from ecif.errors import ConflictError, EcifError, InputError
from ecif.storage import Storage

_FIRST, _LAST = 1, 8


def web(fs: Any, url: str) -> Iterator[Line]:
    """One file of a web server: whether it can be read, in parts, and whether its size is told.

    Args:
        fs: fsspec's HTTP file system.
    """

    async def ask(headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        session = await fs.set_session()
        async with session.get(url, headers={"Accept-Encoding": "identity", **headers}) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, (
                await answer.content.read(64)
            )  # fmt: skip

    try:
        status, headers, _ = sync(fs.loop, ask, {})
    except Exception as error:  # of aiohttp, which wraps those of sockets and TLS
        text = " ".join(str(error).split())
        yield Line("problem", "read", f"no answer ({type(error).__name__}: {text})", "check host, network and proxy")
        return
    if status != 200:
        advice = (
            "check the credentials" if status in (401, 403) else "name a file that is there, as a web browser would"
        )
        yield Line("problem", "read", f"the server answers {status}", advice)
        return
    yield Line("ok", "read", "the file can be read")
    if "content-length" in headers:
        yield Line("ok", "size", f"{int(headers['content-length']):,} bytes, as the server tells")
    else:
        advice = "a cut file could not be noticed: copy it to a disk or an object store"
        yield Line("problem", "size", "is not told", advice)
    status, headers, part = sync(fs.loop, ask, {"Range": f"bytes={_FIRST}-{_LAST}"})
    if status == 206 and len(part) <= _LAST - _FIRST + 1:
        yield Line("ok", "ranges", "parts of a file can be read")
    else:
        yield Line(
            "warning", "ranges", f"are ignored ({status})", "after a lost connection a file is read from its start"
        )
    if not {"etag", "last-modified"} & set(headers):
        yield Line(
            "warning", "etag", "neither ETag nor Last-Modified is told", "a file that is replaced is not noticed"
        )
    yield Line("ok", "write", "web servers are for reading only")


def store(storage: Storage, url: str, folder: str, read_only: bool) -> Iterator[Line]:
    """Any other store, by what `Storage` does with it: list, write, read, refuse to overwrite, delete.

    Args:
        folder: URL below `url` of everything that is written; removed at the end.
    """
    try:
        yield Line("ok", "list", f"{len(storage.list(url)):,} files below the prefix")
    except InputError as error:
        yield Line("problem", "list", error.problem)
        return
    if read_only:
        return
    file, data = f"{folder}/file", os.urandom(100_000)
    try:
        yield from _roundtrip(storage, folder, file, data)
    finally:
        try:
            for left in storage.list(folder):
                storage.delete(left.url)
        except EcifError as error:
            yield Line("warning", "delete", str(error), f"remove {folder} by hand")


def _roundtrip(storage: Storage, folder: str, file: str, data: bytes) -> Iterator[Line]:
    check = "write"
    try:
        storage.publish(file, data)
        yield Line("ok", check, "a file was written")
        check = "read"
        if storage.read_bytes(file) != data:
            yield Line("problem", check, "other bytes came back than were written")
            return
        yield Line("ok", check, "the bytes came back at once, as they were")
        check = "list after write"
        if [found.url for found in storage.list(folder)] != [file]:
            yield Line("problem", check, "a listing does not show what was just written", "is there a cache in front?")
        else:
            yield Line("ok", check, "what is written is seen by the next listing")
        check = "create"
        try:
            storage.publish(file, data[1:])
        except ConflictError:
            yield Line("ok", check, "a name that is taken is not overwritten")
        else:
            yield Line("problem", check, "a file was overwritten")
        check = "delete"
        storage.delete(file)
        yield Line("ok", check, "files can be deleted")
    except InputError as error:
        yield Line("problem", check, error.problem)
