"""What all writers have in common: data are copied into blocks, and hashing and transfer go on in the background.

One thread hashes in order, others send, while the caller reads and parses on: on one core of four that is the
difference between the sum of these times and the longest of them. Few blocks exist at any time, and the caller waits
when all are under way; that bounds memory whatever the size of the file.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from ecif.errors import StorageError
from ecif.storage.faults import raise_translated
from ecif.storage.types import Published

# The first block begins so small; it grows while it fills, since most files are small.
_FIRST_BYTES = 2**18
# Blocks that are hashed or sent while another one is filled.
UNDER_WAY = 3


class Writer(ABC):
    """Writes one file that appears whole when it is finished; see `Storage.create`.

    Not to be shared between threads. Back ends say how a full block is sent (`_push`), and what makes the file
    appear (`_appear`) or vanish without a trace (`_undo`).

    Args:
        url: the file.
        block: bytes of a block.
        at_most: bytes that will be written at most, if known.
        options: storage options, whose secrets are kept out of messages.
    """

    _buffer: bytearray
    _view: memoryview
    _filled: int
    _room: int

    def __init__(self, url: str, block: int, at_most: int | None, options: Mapping[str, Any] | None = None) -> None:
        self.url, self.size = url, 0
        self._block, self._options = block, options
        self._sha = hashlib.sha256()
        self._hasher: ThreadPoolExecutor | None = None
        self._under_way: deque[tuple[tuple[Future[Any], ...], bytearray]] = deque()
        self._spare: list[bytearray] = []
        self._ended = False
        self._take(bytearray(min(block, _FIRST_BYTES if at_most is None else max(1, at_most))))

    @abstractmethod
    def _push(self, full: bytearray) -> None:
        """Begin to send a full block; `_lend` it for as long as that takes."""

    @abstractmethod
    def _appear(self, rest: memoryview) -> Published:
        """Send the last block, which is shorter, wait for all, and make the file visible."""

    @abstractmethod
    def _undo(self) -> None:
        """Leave nothing behind; also after `_appear`, successful or not, and when nothing was begun."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take over `data`, which may be reused at once. Waits while all blocks are under way.

        Raises:
            StorageError: what was written before could not be sent.
        """
        if self._ended:
            raise ValueError(f"{self.url}: writing to a finished file")
        end = self._filled + len(data)
        if end <= self._room:
            self._view[self._filled : end] = data
            self._filled = end
            return
        view, start = memoryview(data), 0
        while start < len(view):
            if self._filled == self._room:
                self._next()
            count = min(self._room - self._filled, len(view) - start)
            self._view[self._filled : self._filled + count] = view[start : start + count]
            self._filled += count
            start += count

    def finish(self) -> Published:
        """Make the file visible, or agree with the same bytes that are there already.

        Returns:
            Size and SHA-256 of the file.

        Raises:
            ConflictError: other content has the name.
            StorageError: it cannot be written; then nothing is left behind.
        """
        if self._ended:
            raise ValueError(f"{self.url}: finished already")
        try:
            self.size += self._filled
            published = self._appear(self._view[: self._filled])
        except BaseException as error:
            self._end(error)
            if isinstance(error, Exception):
                raise_translated(error, self.url, "write", self._options)
            raise
        self._end(None)
        return published

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._ended:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        self._ended = True
        try:
            self._undo()
        except Exception as left:
            if error is None:
                raise StorageError(f"what was begun could not be removed: {left}", url=self.url) from left
            error.add_note(f"{self.url}: what was begun could not be removed: {left}")
        finally:
            self._view.release()
            self._spare.clear()
            self._under_way.clear()
            if self._hasher is not None:
                self._hasher.shutdown(cancel_futures=True)

    def _take(self, buffer: bytearray) -> None:
        self._buffer, self._view = buffer, memoryview(buffer)
        self._filled, self._room = 0, len(buffer)

    def _next(self) -> None:
        """Room for more: the block grows to its full size first, then it is sent and another one taken."""
        full, filled = self._buffer, self._filled
        self._view.release()
        if len(full) < self._block:
            full.extend(bytes(min(3 * len(full), self._block - len(full))))
            self._take(full)
            self._filled = filled
            return
        try:
            self.size += filled
            self._push(full)
            self._take(self._free())
        except BaseException as error:
            self._take(bytearray(1))  # for `__exit__`
            if isinstance(error, Exception):
                raise_translated(error, self.url, "write", self._options)
            raise

    def _lend(self, buffer: bytearray, *until: Future[Any]) -> None:
        """`buffer` is in use until these futures are done."""
        self._under_way.append((until, buffer))

    def _free(self) -> bytearray:
        while len(self._under_way) >= UNDER_WAY or (self._under_way and all(f.done() for f in self._under_way[0][0])):
            self._spare.append(self._back())
        return self._spare.pop() if self._spare else bytearray(self._block)

    def _wait(self) -> None:
        """Until all that was lent is back."""
        while self._under_way:
            self._back()

    def _back(self) -> bytearray:
        futures, buffer = self._under_way.popleft()
        for future in futures:
            future.result()
        return buffer

    def _hash(self, part: bytearray | memoryview) -> Future[Any]:
        """Digest `part` after all that came before."""
        if self._hasher is None:
            self._hasher = ThreadPoolExecutor(1, "ecif-hash")
        return self._hasher.submit(self._digest, part)

    def _digest(self, part: bytearray | memoryview) -> Any:
        self._sha.update(part)

    def _result(self) -> Published:
        return Published(self.size, self._sha.hexdigest())
