"""The requests to an S3 server, by aiobotocore's client in the event loop of s3fs, without what s3fs builds on them.

s3fs publishes partial objects, mixes versions of an object that is replaced while it is read, and loses short bodies;
so only its sessions, credentials and error types are used here. Every request goes through `call`, or through `receive`
for bodies, which ask again within the time that `faults` grants. All of it runs in one thread; callers wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import Future
from datetime import datetime
from typing import Any, TypeVar

from fsspec.utils import glob_translate

from ecif.errors import MissingFileError, StorageError, UsageError
from ecif.storage import faults
from ecif.storage.faults import Attempts, ShortBody, answer_of
from ecif.storage.reading import check_expected
from ecif.storage.types import A_DIRECTORY, REPLACED, FileInfo, PendingUpload, is_temporary

T = TypeVar("T")

# Bytes that are taken from a body at once.
_CHUNK = 2**20
# An attempt may take so many seconds, and one more per so many bytes that it sends; answers are timed by botocore.
_ATTEMPT_SECONDS, _SLOWEST_BYTES = 120.0, 100_000

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class S3Store:
    """One S3 server.

    Args:
        fs: its s3fs file system, by `remote.filesystem`.
        options: storage options, whose secrets are kept out of messages.
        patience: seconds for which a request is tried again.
    """

    def __init__(self, fs: Any, options: Mapping[str, Any], patience: float) -> None:
        self._fs, self.options, self.patience = fs, options, patience

    def place(self, url: str) -> dict[str, str]:
        """Bucket and key, as the requests name them.

        Raises:
            MissingFileError: it is a whole bucket.
        """
        bucket, key, _ = self._fs.split_path(url)
        if not key:
            raise MissingFileError(A_DIRECTORY, url=url)
        return {"Bucket": bucket, "Key": key}

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin `work` in the background."""
        return asyncio.run_coroutine_threadsafe(work, self._fs.loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; an interrupt ends it."""
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def once(self, method: str, **parameters: Any) -> Any:
        """One attempt of one request."""
        body = parameters.get("Body", b"")
        async with asyncio.timeout(_ATTEMPT_SECONDS + len(body) / _SLOWEST_BYTES):
            return await self._fs._call_s3(method, **parameters)

    async def call(self, method: str, **parameters: Any) -> Any:
        """The answer to a request that is tried again when it fails for a reason that may pass."""
        attempts = Attempts(self.patience)
        while True:
            try:
                return await self.once(method, **parameters)
            except Exception as error:
                wait = attempts.wait(error)
            await faults.clock.asleep(wait)

    # Reading

    async def head(self, url: str) -> FileInfo:
        """Size and tag of one object, by one request.

        Raises:
            FileNotFoundError: there is none.
        """
        answer = await self.call("head_object", **self.place(url))
        return FileInfo(url, answer["ContentLength"], tag_of(answer))

    def info(self, url: str) -> FileInfo:
        """Size and tag of one object, by one request."""
        return self.run(self.head(url))

    def modified(self, url: str) -> datetime:
        """When an object was written, by the server's clock."""
        found: datetime = self.run(self.call("head_object", **self.place(url)))["LastModified"]
        return found

    async def begin(self, url: str, into: bytearray, expect: FileInfo | None) -> FileInfo:
        """Fill `into` with the beginning of an object, and tell what object that is.

        Raises:
            InputError: it is not the one that is expected.
        """
        try:
            file = await self.receive(url, 0, memoryview(into), None)
        except Exception as error:
            if answer_of(error)[0] != 416:
                raise
            file = await self.head(url)  # an empty object has no first byte
            if file.size:
                raise
        check_expected(file, expect)
        return file

    async def receive(self, url: str, start: int, into: memoryview, file: FileInfo | None) -> FileInfo:
        """Fill `into` with the bytes from `start` on, or as many as there are.

        What arrived before a body broke off is kept, and only the rest asked for; as long as something arrives, this
        goes on.

        Args:
            file: the object that it must be; None takes what is there, and stays with it.

        Raises:
            StorageError: the object was replaced.
        """
        attempts, have = Attempts(self.patience), 0
        while True:
            before = have
            try:
                pinned = {"IfMatch": f'"{file.etag}"'} if file and file.etag else {}
                asked = f"bytes={start + have}-{start + len(into) - 1}"
                answer = await self.once("get_object", Range=asked, **self.place(url), **pinned)
                body = answer["Body"]
                try:
                    file = _checked(answer, url, start + have, file)
                    wanted = min(len(into), file.size - start)
                    while have < wanted and (chunk := await body.read(min(_CHUNK, wanted - have))):
                        into[have : have + len(chunk)] = chunk
                        have += len(chunk)
                finally:
                    body.close()
                if have == wanted:
                    return file
                raise ShortBody(f"ended after {start + have} of {file.size} bytes")
            except Exception as error:
                if file is not None and answer_of(error)[0] in (412, 416):
                    raise StorageError(REPLACED, url=url) from error
                if have > before:
                    attempts = Attempts(self.patience)
                wait = attempts.wait(error)
            await faults.clock.asleep(wait)

    # Listing

    def scan(self, folder: str, recursive: bool, first: str = "") -> Iterator[FileInfo]:
        """The objects below a directory in the order of their keys, from about the URL `first` on."""
        bucket, key, _ = self._fs.split_path(folder)
        prefix = f"{key}/" if key else ""
        after = self._fs.split_path(first)[1][:-1] if first else ""
        return self._scan(bucket, prefix, "" if recursive else "/", after)

    def glob(self, pattern: str) -> Iterator[FileInfo]:
        """The objects that match."""
        bucket, key, _ = self._fs.split_path(pattern)
        if re.search(r"[*?\[]", bucket):
            raise UsageError(f"{pattern!r}: name the bucket; only keys are matched")
        try:
            matches = re.compile(glob_translate(key)).match
        except ValueError as error:
            raise UsageError(f"{pattern!r}: {error}") from error
        prefix = re.split(r"[*?\[]", key, maxsplit=1)[0]
        flat = "/" not in key[len(prefix) :] and "**" not in key
        for file in self._scan(bucket, prefix, "/" if flat else "", ""):
            if matches(self._fs.split_path(file.url)[1]) and not is_temporary(file.url):
                yield file

    def _scan(self, bucket: str, prefix: str, delimiter: str, after: str) -> Iterator[FileInfo]:
        asked: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
        asked |= {"Delimiter": delimiter} if delimiter else {}
        asked |= {"StartAfter": after} if after > prefix else {}
        last = ""
        while True:
            try:
                page = self.run(self.call("list_objects_v2", **asked))
            except FileNotFoundError:  # no such bucket
                return
            for item in page.get("Contents", ()):
                key = item["Key"]
                if key < last:
                    problem = "the server lists it out of order; it is not an S3 server that ECIF can work with"
                    raise StorageError(problem, url=f"s3://{bucket}/{prefix}")
                last = key
                if not key.endswith("/"):  # what consoles make of a folder
                    yield FileInfo(f"s3://{bucket}/{key}", item["Size"], tag_of(item))
            if not page.get("IsTruncated"):
                return
            if (token := page.get("NextContinuationToken")) in (None, asked.get("ContinuationToken")):
                raise StorageError("the listing does not come to its end; run again", url=f"s3://{bucket}/{prefix}")
            asked["ContinuationToken"] = token

    # Removing

    def delete(self, url: str) -> None:
        """Remove an object; that it is gone already is fine."""
        with contextlib.suppress(FileNotFoundError):
            self.run(self.call("delete_object", **self.place(url)))

    def uploads(self, folder: str) -> list[PendingUpload]:
        """The pending uploads below a directory."""
        return self.run(self.pending(folder, exact=False))

    async def pending(self, url: str, exact: bool) -> list[PendingUpload]:
        """The pending uploads below a directory, or of exactly this key."""
        bucket, key, _ = self._fs.split_path(url)
        asked: dict[str, Any] = {"Bucket": bucket, "Prefix": key if exact or not key else f"{key}/"}
        found: list[PendingUpload] = []
        while True:
            page = await self.call("list_multipart_uploads", **asked)
            for item in page.get("Uploads", ()):
                if not exact or item["Key"] == key:
                    found.append(PendingUpload(f"s3://{bucket}/{item['Key']}", item["UploadId"], item["Initiated"]))
            marks = {"KeyMarker": page.get("NextKeyMarker"), "UploadIdMarker": page.get("NextUploadIdMarker")}
            if not page.get("IsTruncated") or not marks["KeyMarker"] or marks.items() <= asked.items():
                return found
            asked |= {name: mark for name, mark in marks.items() if mark}

    def abort(self, url: str, upload_id: str) -> None:
        """End an upload; that it is gone already is fine.

        A part that was still on its way may arrive afterwards and bring it back; so it is looked at again.
        """
        upload = {**self.place(url), "UploadId": upload_id}
        with contextlib.suppress(FileNotFoundError):
            for _ in range(3):
                self.run(self.call("abort_multipart_upload", **upload))
                try:
                    self.run(self.call("list_parts", **upload))
                except PermissionError:
                    return

    def abort_if_empty(self, url: str, upload_id: str) -> None:
        """End an upload that has no parts: one that was begun by a request whose answer was lost."""
        upload = {**self.place(url), "UploadId": upload_id}
        with contextlib.suppress(FileNotFoundError):
            if not self.run(self.call("list_parts", **upload)).get("Parts"):
                self.abort(url, upload_id)


def tag_of(answer: Mapping[str, Any]) -> str:
    """The ETag of an answer, without its quotes."""
    return str(answer.get("ETag", "")).removeprefix("W/").strip('"')


def _checked(answer: Mapping[str, Any], url: str, start: int, file: FileInfo | None) -> FileInfo:
    """What was answered to a request for bytes from `start` on; some servers ignore If-Match, and some ranges."""
    if (found := _RANGE.match(answer.get("ContentRange", ""))) is not None:
        first, total = int(found[1]), int(found[3])
    else:
        first, total = 0, int(answer["ContentLength"])
    there = FileInfo(url, total, tag_of(answer))
    if file is not None and (there.size, there.etag) != (file.size, file.etag):
        raise StorageError(REPLACED, url=url)
    if first != start:
        raise StorageError(f"the server sent bytes from {first} on instead of {start}; it cannot be read", url=url)
    return there
