"""Writing S3 objects: one request for small ones, else parts that travel while the next ones are made.

Nothing is visible before the upload is completed, and nothing depends on the server honouring conditions: the name
is looked at before it is taken and afterwards. The ETag that the object must have is computed from the digests of
its parts, so one HEAD tells whether everything arrived, also when the answer to a request was lost. Where ETags are
no digests (encryption with keys of one's own), the object is read back in these cases.

Two writers of different content on a server without conditions: the last one stays, and the first one that looks
afterwards is told. The window is that of one request, not that of the upload.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from concurrent.futures import Future
from typing import Any

from ecif.errors import ConflictError, StorageError
from ecif.storage import faults
from ecif.storage.faults import Attempts, answer_of
from ecif.storage.ranges import RangeReader
from ecif.storage.s3 import S3Store, tag_of
from ecif.storage.types import COPY_BYTES, TAKEN, VANISHED, FileInfo, Published
from ecif.storage.writing import Writer

# What a part holds, unless there would be too many: S3 allows 10,000, hence 78 GiB an object.
PART_BYTES = 8 * 2**20
MOST_PARTS = 10_000
# Parts that travel at the same time.
AT_ONCE = 2


def part_bytes(at_most: int | None) -> int:
    """The size of the parts of an upload of so many bytes, at most 10,000 of them."""
    return max(PART_BYTES, -(-(at_most or 0) // MOST_PARTS))


class S3Writer(Writer):
    """Writes one S3 object; see `Storage.create`.

    Args:
        store: the server.
        url: the object.
        at_most: bytes that will be written at most, if known.
        replace: take the place of what is there.
    """

    def __init__(self, store: S3Store, url: str, at_most: int | None, replace: bool) -> None:
        super().__init__(url, part_bytes(at_most), at_most, store.options)
        self._store, self._place, self._replace = store, store.place(url), replace
        # The first part waits for the second one: an object of less than two is put by one request.
        self._first: tuple[bytearray, Future[Any]] | None = None
        self._digests: list[Future[Any]] = []
        self._tags: list[Future[str]] = []
        self._beginning: Future[str] | None = None
        self._strays: set[str] = set()
        self._travelling = asyncio.Semaphore(AT_ONCE)
        self._there = False  # the object is, and is only compared
        self._answered = ""

    def _digest(self, part: bytearray | memoryview) -> Any:
        super()._digest(part)
        return hashlib.md5(part, usedforsecurity=False)

    # Parts

    def _push(self, full: bytearray) -> None:
        if len(self._digests) >= MOST_PARTS:
            problem = f"is larger than {MOST_PARTS} parts of {self._block} bytes; say how large it may become"
            raise StorageError(problem, url=self.url)
        digest = self._hash(full)
        self._digests.append(digest)
        if len(self._digests) == 1:
            self._first = (full, digest)
            return
        if self._first is not None:
            self._begin()
            self._lend(self._first[0], self._send(*self._first))
            self._first = None
        self._lend(full, self._send(full, digest))

    def _begin(self) -> None:
        self._there = not self._replace and self._look() is not None
        if not self._there:
            self._beginning = self._store.start(self._initiate())
            self._beginning.result()

    async def _initiate(self) -> str:
        attempts = Attempts(self._store.patience)
        while True:
            try:
                return str((await self._store.once("create_multipart_upload", **self._place))["UploadId"])
            except Exception as error:
                if faults.is_passing(error):  # perhaps it was begun, and the answer that names it was lost
                    with contextlib.suppress(Exception):
                        self._strays |= {found.upload_id for found in await self._store.pending(self.url, exact=True)}
                wait = attempts.wait(error)
            await faults.clock.asleep(wait)

    def _send(self, part: bytearray | memoryview, digest: Future[Any]) -> Future[Any]:
        if self._there:
            return digest
        number = len(self._tags) + 1
        self._tags.append(sent := self._store.start(self._upload(number, part, digest)))
        return sent

    async def _upload(self, number: int, part: bytearray | memoryview, digest: Future[Any]) -> str:
        md5 = (await asyncio.wrap_future(digest)).digest()
        assert self._beginning is not None
        upload = {**self._place, "UploadId": self._beginning.result(), "PartNumber": number}
        body = part if isinstance(part, bytearray) else bytes(part)
        async with self._travelling:
            answer = await self._store.call("upload_part", Body=body, ContentMD5=_base64(md5), **upload)
        return str(answer["ETag"])

    # The end

    def _appear(self, rest: memoryview) -> Published:
        if self._first is None and not self._digests:
            body, whole = bytes(rest), self._digest(rest)
            return self._put(body, whole)
        last = self._hash(rest)
        if self._first is not None:
            first, digest = self._first
            whole = digest.result().copy()
            last.result()
            whole.update(rest)
            first.extend(rest)
            return self._put(first, whole)
        if len(rest):
            self._digests.append(last)
            self._lend(self._buffer, self._send(rest, last))
        self._wait()
        return self._complete()

    def _put(self, body: bytes | bytearray, md5: Any) -> Published:
        expected, published = md5.hexdigest(), self._result()
        if not self._replace and (there := self._look()) is not None:
            return self._settle(there, expected)
        request = {**self._place, "Body": body, "ContentMD5": _base64(md5.digest())}
        return self._published(expected, "put_object", request, published)

    def _complete(self) -> Published:
        digests = b"".join(future.result().digest() for future in self._digests)
        expected = f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(self._digests)}"
        there = None if self._replace else self._look()
        if self._there and there is None:
            raise StorageError(VANISHED, url=self.url)
        if there is not None:
            return self._settle(there, expected)
        assert self._beginning is not None
        parts = [{"PartNumber": number, "ETag": tag.result()} for number, tag in enumerate(self._tags, 1)]
        request = {**self._place, "UploadId": self._beginning.result(), "MultipartUpload": {"Parts": parts}}
        return self._published(expected, "complete_multipart_upload", request, self._result())

    def _published(self, expected: str, method: str, request: dict[str, Any], published: Published) -> Published:
        """Send the request that makes the object appear, and look what is there."""
        conditions = ({},) if self._replace else ({"IfNoneMatch": "*"}, {})
        answer: dict[str, Any] = {}
        failed: Exception | None = None
        for condition in conditions:
            try:
                answer = self._store.run(self._store.call(method, **request, **condition))
                failed = None
                break
            except Exception as error:
                failed = error
                if answer_of(error)[1] not in ("NotImplemented", "501"):
                    break
        there = self._look()
        if failed is None:
            self._answered, self._beginning = tag_of(answer), None  # the upload is no more
            if there is None:
                raise StorageError("was written without an error, but is not there; check the storage", url=self.url)
            return published if self._replace else self._settle(there, expected)
        # An answer that was lost looks like a failure, or like a lost race when the request is repeated.
        if there is None or (self._replace and not self._is(there, expected)):
            raise failed
        return self._settle(there, expected)

    def _look(self) -> FileInfo | None:
        try:
            return self._store.run(self._store.head(self.url))
        except FileNotFoundError:
            return None

    def _settle(self, there: FileInfo, expected: str) -> Published:
        if not self._is(there, expected):
            raise ConflictError(TAKEN, url=self.url)
        return self._result()

    def _is(self, there: FileInfo, expected: str) -> bool:
        """Whether an object holds what was written; its ETag says so, or it is read back."""
        if there.size != self.size:
            return False
        if there.etag and there.etag in (expected, self._answered):
            return True
        digest = hashlib.sha256()
        with RangeReader.of_url(self._store, self.url, there) as stream:
            while block := stream.read(COPY_BYTES):
                digest.update(block)
        return digest.hexdigest() == self._result().sha256

    def _undo(self) -> None:
        for sent in self._tags:
            sent.cancel()
        begun = set(self._strays)
        # One that failed to begin was told where the writer waited for it.
        if self._beginning is not None and self._beginning.exception() is None:
            own = self._beginning.result()
            begun.discard(own)
            self._store.abort(self.url, own)
        for upload_id in begun:
            self._store.abort_if_empty(self.url, upload_id)


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode("ascii")
