"""Everything that is not a local path, through fsspec: listing, and publishing whole objects.

Object storage has no rename, and a writer that fails inside `open(..., "wb")` publishes what it has; so only
whole objects are put, from memory or from a local file. Exclusive creation (`If-None-Match`) is asked for but
not relied on, since servers ignore it: after every put the object is looked at again. Two writers of different
content on a server without it: the last one stays, and the first one that looks afterwards is told.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast

import fsspec

from ecif.errors import ConflictError, MissingFileError, StorageError, UsageError
from ecif.storage.faults import retrying
from ecif.storage.reading import Reader
from ecif.storage.types import A_DIRECTORY, COPY_BYTES, TAKEN, FileInfo, Published, is_temporary, open_source
from ecif.storage.urls import OBJECT_STORES, READ_ONLY, scheme_of

# One range request per block. Latency is hidden well above 8 MiB; a reader holds one or two blocks.
READ_BLOCK = 16 * 2**20
# Parts of an upload: S3 allows 10,000, hence 312 GiB an object; above twice this size an upload has parts.
PART_BYTES = 32 * 2**20
# Parts that travel at the same time; each is held in memory.
PARTS_AT_ONCE = 2

_TAGS = ("ETag", "etag", "md5Hash", "Content-MD5", "LastModified", "Last-Modified", "last_modified", "mtime", "created")


def filesystem(url: str, options: Mapping[str, Any]) -> Any:
    """The fsspec file system of `url`; fsspec keeps one per process and set of options."""
    scheme = scheme_of(url)
    per_scheme = bool(options) and all(isinstance(value, Mapping) for value in options.values())
    if per_scheme and set(options) <= OBJECT_STORES | READ_ONLY | {"memory"}:
        chosen = dict(options.get(scheme, {}))
    else:  # flat options may hold a secret: they never go to a web server
        chosen = dict(options) if scheme in OBJECT_STORES else {}
    if scheme == "s3":
        # A cached listing would hide what another machine has just finished.
        chosen.setdefault("use_listings_cache", False)
        once = {"total_max_attempts": 1, "mode": "standard"}
        given = chosen.get("config_kwargs") or {}
        chosen["config_kwargs"] = {"retries": once, "connect_timeout": 10, "read_timeout": 30} | dict(given)
    try:
        fs = fsspec.filesystem(scheme, **chosen)
    except (ImportError, TypeError, ValueError, KeyError) as error:
        raise UsageError(f"storage of {url}: {error}; check --storage-options and the installed packages") from error
    if scheme == "s3":
        fs.retries = 1  # `faults.retrying` is the one layer
    return fs


def open_reader(fs: Any, url: str) -> Reader:
    """A reader in blocks; S3 objects that are replaced meanwhile are noticed by their ETag."""
    if scheme_of(url) == "memory":  # fsspec would hand out one shared file object with one position
        data = fs.cat_file(url)
        return Reader(io.BytesIO(data), url, len(data), patient=False)
    if scheme_of(url) != "s3" or url.count("/") < 3:  # s3fs asks for itself, but not about a whole bucket
        info(fs, url)
    raw = retrying(lambda: fs.open(url, "rb", block_size=READ_BLOCK, cache_type="readahead"))
    if scheme_of(url) == "s3" and raw.details.get("type") == "directory":
        raise MissingFileError(A_DIRECTORY, url=url)
    return Reader(raw, url, raw.size, patient=True)


def info(fs: Any, url: str) -> FileInfo:
    """Size and tag of one object, by one request."""
    found = _from_fsspec(url, retrying(lambda: _details(fs, url)))
    if found is None:
        raise MissingFileError(A_DIRECTORY, url=url)
    return found


def _details(fs: Any, url: str) -> Any:
    if scheme_of(url) == "s3":  # s3fs would list as well, to tell a directory from nothing
        bucket, key, _ = fs.split_path(url)
        if not key:
            return {"type": "directory"}
        head = fs.call_s3("head_object", Bucket=bucket, Key=key)
        return {"type": "file", "size": head["ContentLength"], "ETag": head.get("ETag", "")}
    try:
        return fs.info(url)
    except FileNotFoundError as error:
        # fsspec's HTTP says "not found" whatever happened; the cause tells.
        cause = error.__cause__
        if scheme_of(url) in READ_ONLY and cause and getattr(cause, "status", None) not in (404, 410):
            raise cause from None
        raise


def _from_fsspec(url: str, found: Mapping[str, Any]) -> FileInfo | None:
    if found.get("type") != "file":
        return None
    size = found.get("size")
    if not isinstance(size, int):
        raise StorageError("the server does not tell its size; copy it to a disk or an object store", url=url)
    tag = next((found[name] for name in _TAGS if found.get(name)), "")
    if isinstance(tag, datetime):
        tag = tag.timestamp()
    return FileInfo(url, size, str(tag).removeprefix("W/").strip('"'))


def listing(fs: Any, folder: str, recursive: bool) -> list[FileInfo]:
    """The objects below a directory; empty when it does not exist."""

    def ask() -> Iterable[Mapping[str, Any]]:
        if recursive:
            return cast(Iterable[Mapping[str, Any]], fs.find(folder, detail=True).values())
        return cast(Iterable[Mapping[str, Any]], fs.ls(folder, detail=True))

    return _named(fs, folder, _found(ask, folder))


def glob(fs: Any, pattern: str) -> list[FileInfo]:
    """The objects that match."""
    return _named(fs, pattern, _found(lambda: fs.glob(pattern, detail=True).values(), pattern))


def _found(ask: Any, url: str) -> list[Mapping[str, Any]]:
    if scheme_of(url) in READ_ONLY:
        raise UsageError(f"{url}: web servers cannot be listed; name the files, or use a brace range")
    with contextlib.suppress(FileNotFoundError):
        return list(retrying(ask))
    return []


def _named(fs: Any, asked: str, found: Iterable[Mapping[str, Any]]) -> list[FileInfo]:
    # fsspec returns names without the scheme (and, for some stores, without the account).
    inside = str(fs._strip_protocol(asked))
    root = asked[: len(asked) - len(inside.lstrip("/"))]
    files = []
    for item in found:
        name = str(item["name"])
        if not name.endswith("/") and not is_temporary(name):
            file = _from_fsspec(root + name.lstrip("/"), item)
            files += [file] if file is not None else []
    return files


@dataclass(frozen=True, slots=True)
class _Measured:
    published: Published
    etag: str  # what S3 will say, unless the bucket encrypts with its own keys


def publish(fs: Any, url: str, data: bytes | Path, replace: bool) -> Published:
    """See `Storage.publish`."""
    part = part_bytes(len(data) if isinstance(data, bytes) else data.stat().st_size)
    measured = _measure(data, part)
    if not replace:
        there = _agrees(fs, url, data, measured)
        if there is not None:
            return _settle(there, url, measured)
    try:
        retrying(lambda: _put(fs, url, data, part, replace))
    except Exception:
        # A response that was lost looks like a failure, or like a lost race when the put is repeated.
        there = _agrees(fs, url, data, measured)
        if there or (there is False and not replace):
            return _settle(there, url, measured)
        raise
    if not replace:
        there = _agrees(fs, url, data, measured)
        if there is None:
            raise StorageError("was written without an error, but is not there; check the storage", url=url)
        return _settle(there, url, measured)
    return measured.published


def _settle(same: bool, url: str, measured: _Measured) -> Published:
    if not same:
        raise ConflictError(TAKEN, url=url)
    return measured.published


def _put(fs: Any, url: str, data: bytes | Path, part: int, replace: bool) -> None:
    if scheme_of(url) == "s3":
        extra: dict[str, Any] = {"chunksize": part, "max_concurrency": PARTS_AT_ONCE}
        modes = ("overwrite",) if replace else ("create", "overwrite")
    else:
        extra = {}
        modes = ("overwrite",) if replace else ("create",)
    for mode in modes:
        try:
            if isinstance(data, bytes):
                fs.pipe_file(url, data, mode=mode, **extra)
            else:
                fs.put_file(str(data), url, mode=mode, **extra)
            return
        except OSError as error:
            if not (mode != modes[-1] and _is_unsupported(error)):
                raise


def _is_unsupported(error: OSError) -> bool:
    cause = getattr(error.__cause__, "response", None) or {}
    return (cause.get("Error") or {}).get("Code") in ("NotImplemented", "501")


def part_bytes(size: int) -> int:
    """The size of the parts of an upload, at most 10,000."""
    return max(PART_BYTES, -(-size // 10_000))


def _measure(data: bytes | Path, part: int) -> _Measured:
    sha, size = hashlib.sha256(), 0
    whole, parts, current = _md5(), [], _md5()
    with open_source(data) as source:
        while block := source.read(min(COPY_BYTES, part - size % part)):
            for digest in (sha, whole, current):
                digest.update(block)
            size += len(block)
            if size % part == 0:
                parts.append(current.digest())
                current = _md5()
    if size % part:
        parts.append(current.digest())
    if size < 2 * part:
        etag = whole.hexdigest()
    else:
        etag = f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"
    return _Measured(Published(size, sha.hexdigest()), etag)


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


def _agrees(fs: Any, url: str, data: bytes | Path, measured: _Measured) -> bool | None:
    """Whether the object is the same as `data`; None when there is no object.

    The ETag answers for a plain S3 object; otherwise the object is read back.
    """
    try:
        there = info(fs, url)
    except (MissingFileError, FileNotFoundError):
        return None
    if there.size != measured.published.size:
        return False
    if scheme_of(url) == "s3" and there.etag == measured.etag:
        return True
    with open_reader(fs, url) as old, open_source(data) as new:
        return _same_bytes(cast(IO[bytes], old), new)


def _same_bytes(one: IO[bytes], other: IO[bytes]) -> bool:
    while (block := one.read(COPY_BYTES)) == other.read(COPY_BYTES):
        if not block:
            return True
    return False


def delete(fs: Any, url: str) -> None:
    """Remove an object; that it is gone already is fine."""
    with contextlib.suppress(FileNotFoundError):
        retrying(lambda: fs.rm_file(url))
