"""Object stores other than S3, and web servers, through what fsspec offers for all of them.

A writer that fails inside fsspec's `open(..., "wb")` publishes what it has; so what is written goes to a temporary
file of this machine first, and is put whole. Exclusive creation is asked for but not relied on: after every put the
object is looked at again. Two writers of different content on a store without it: the last one stays, and the first
one that looks afterwards is told.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import fsspec

from ecif.errors import ConflictError, MissingFileError, StorageError, UsageError
from ecif.storage.disk import FileWriter
from ecif.storage.faults import retrying
from ecif.storage.reading import FileReader, check_expected
from ecif.storage.secrets import redact
from ecif.storage.types import A_DIRECTORY, COPY_BYTES, TAKEN, FileInfo, Published, is_temporary
from ecif.storage.urls import OBJECT_STORES, READ_ONLY, scheme_of

# One range request per block. Latency is hidden well above 8 MiB; a reader holds one or two blocks.
READ_BLOCK = 16 * 2**20

# Connections to one server: more than requests are ever under way, or they would queue for one.
POOL = 64

_TAGS = ("ETag", "etag", "md5Hash", "Content-MD5", "LastModified", "Last-Modified", "last_modified", "mtime", "created")


def filesystem(url: str, options: Mapping[str, Any]) -> Any:
    """The fsspec file system of `url`; fsspec keeps one per process and set of options.

    Raises:
        UsageError: an option is wrong, or a package is missing.
    """
    scheme = scheme_of(url)
    per_scheme = bool(options) and all(isinstance(value, Mapping) for value in options.values())
    if per_scheme and set(options) <= OBJECT_STORES | READ_ONLY | {"memory"}:
        chosen = dict(options.get(scheme, {}))
    else:  # flat options may hold a secret: they never go to a web server
        chosen = dict(options) if scheme in OBJECT_STORES else {}
    if scheme == "s3":
        # A cached listing would hide what another machine has just finished.
        chosen.setdefault("use_listings_cache", False)
        # Content-MD5, which is signed and which all servers know, goes with every body; so neither checksums that only
        # some know are needed, nor another digest of the body in the signature, whether the connection is encrypted
        # or not.
        ours = {
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "connect_timeout": 10,
            "read_timeout": 30,
            "max_pool_connections": POOL,
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        given = dict(chosen.get("config_kwargs") or {})
        given["s3"] = {"payload_signing_enabled": False} | dict(given.get("s3") or {})
        chosen["config_kwargs"] = ours | given
    try:
        fs = fsspec.filesystem(scheme, **chosen)
    except (ImportError, TypeError, ValueError, KeyError) as error:
        problem = f"storage of {url}: {error}; check --storage-options and the installed packages"
        raise UsageError(redact(problem, options)) from error
    if scheme == "s3":
        fs.retries = 1  # `faults` holds the one layer
    return fs


class Store:
    """One store other than S3, or a web server.

    Args:
        fs: its file system, by `filesystem`.
        options: storage options, whose secrets are kept out of messages.
        patience: seconds for which a request is tried again.
    """

    def __init__(self, fs: Any, options: Mapping[str, Any], patience: float) -> None:
        self._fs, self._options, self._patience = fs, options, patience

    def open(self, url: str, expect: FileInfo | None) -> FileReader:
        """See `Storage.open`."""
        there = self.info(url)
        check_expected(there, expect)
        if scheme_of(url) == "memory":  # fsspec would hand out one shared file object with one position
            data = self._fs.cat_file(url)
            return FileReader(io.BytesIO(data), url, len(data), self._options, self._patience)
        raw = self._retrying(lambda: self._fs.open(url, "rb", block_size=READ_BLOCK, cache_type="readahead"))
        return FileReader(raw, url, there.size, self._options, self._patience)

    def info(self, url: str) -> FileInfo:
        """Size and tag of one object, by one request."""
        found = _from_fsspec(url, self._retrying(lambda: self._details(url)))
        if found is None:
            raise MissingFileError(A_DIRECTORY, url=url)
        return found

    def modified(self, url: str) -> datetime:
        """When an object was written, by the server's clock."""
        found: datetime = self._retrying(lambda: self._fs.modified(url))
        return found if found.tzinfo else found.replace(tzinfo=UTC)

    def scan(self, folder: str, recursive: bool, first: str) -> Iterator[FileInfo]:
        """The objects below a directory, sorted; held at once. `first` may be ignored."""

        def ask() -> Iterable[Mapping[str, Any]]:
            if recursive:
                found: Iterable[Mapping[str, Any]] = self._fs.find(folder, detail=True).values()
            else:
                found = self._fs.ls(folder, detail=True)
            return found

        return iter(sorted(self._named(folder, self._found(ask, folder)), key=lambda file: file.url))

    def glob(self, pattern: str) -> list[FileInfo]:
        """The objects that match."""
        return self._named(pattern, self._found(lambda: self._fs.glob(pattern, detail=True).values(), pattern))

    def create(self, url: str, at_most: int | None, replace: bool) -> Spool:
        """See `Storage.create`."""
        return Spool(self, url, at_most, replace, self._options)

    def delete(self, url: str) -> None:
        """Remove an object; that it is gone already is fine."""
        with contextlib.suppress(FileNotFoundError):
            self._retrying(lambda: self._fs.rm_file(url))

    def put(self, url: str, data: bytes | str, published: Published, replace: bool) -> Published:
        """Put `data` (or a file of that name) whole, unless the same is there.

        Raises:
            ConflictError: other content has the name.
        """
        there = None if replace else self._same(url, published)
        if there is not None:
            return _settle(there, url, published)
        mode = "overwrite" if replace else "create"
        try:
            self._retrying(
                lambda: (
                    self._fs.pipe_file(url, data, mode=mode)
                    if isinstance(data, bytes)
                    else self._fs.put_file(data, url, mode=mode)
                )
            )
        except Exception:
            # A response that was lost looks like a failure, or like a lost race when the put is repeated.
            there = self._same(url, published)
            if there or (there is False and not replace):
                return _settle(there, url, published)
            raise
        if replace:
            return published
        there = self._same(url, published)
        if there is None:
            raise StorageError("was written without an error, but is not there; check the storage", url=url)
        return _settle(there, url, published)

    def _same(self, url: str, published: Published) -> bool | None:
        """Whether the object holds what was published; None when there is no object."""
        try:
            there = self.info(url)
        except (MissingFileError, FileNotFoundError):
            return None
        if there.size != published.size:
            return False
        digest = hashlib.sha256()
        with self.open(url, there) as stream:
            while block := stream.read(COPY_BYTES):
                digest.update(block)
        return digest.hexdigest() == published.sha256

    def _retrying(self, action: Callable[[], Any]) -> Any:
        return retrying(action, self._patience)

    def _details(self, url: str) -> Any:
        try:
            return self._fs.info(url)
        except FileNotFoundError as error:
            # fsspec's HTTP says "not found" whatever happened; the cause tells.
            cause = error.__cause__
            if scheme_of(url) in READ_ONLY and cause and getattr(cause, "status", None) not in (404, 410):
                raise cause from None
            raise

    def _found(self, ask: Any, url: str) -> list[Mapping[str, Any]]:
        if scheme_of(url) in READ_ONLY:
            raise UsageError(f"{url}: web servers cannot be listed; name the files, or use a brace range")
        with contextlib.suppress(FileNotFoundError):
            return list(self._retrying(ask))
        return []

    def _named(self, asked: str, found: Iterable[Mapping[str, Any]]) -> list[FileInfo]:
        # fsspec returns names without the scheme (and, for some stores, without the account).
        inside = str(self._fs._strip_protocol(asked))
        root = asked[: len(asked) - len(inside.lstrip("/"))]
        files = []
        for item in found:
            name = str(item["name"])
            if not name.endswith("/") and not is_temporary(name):
                file = _from_fsspec(root + name.lstrip("/"), item)
                files += [file] if file is not None else []
        return files


class Spool(FileWriter):
    """Collects what is written, in memory or in a temporary file of this machine, and puts it whole at the end."""

    def __init__(self, store: Store, url: str, at_most: int | None, replace: bool, options: Mapping[str, Any]) -> None:
        super().__init__(url, at_most, options)
        self._store, self._replace = store, replace

    def _begin(self) -> None:
        self._handle, self._temporary = tempfile.mkstemp(prefix="ecif-", suffix=".tmp")

    def _push(self, full: bytearray) -> None:
        if self._handle is None:
            self._begin()
        super()._push(full)

    def _appear(self, rest: memoryview) -> Published:
        self._rest(rest)
        data = bytes(rest) if self._temporary is None else self._temporary
        return self._store.put(self.url, data, self._result(), self._replace)


def _settle(same: bool, url: str, published: Published) -> Published:
    if not same:
        raise ConflictError(TAKEN, url=url)
    return published


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
