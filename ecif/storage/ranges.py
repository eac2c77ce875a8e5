"""Reading S3 objects by ranges, ahead of the caller, and never two versions of one object.

The answer to the first request says which object it is; every later one must come from the same. How far is read
ahead grows with what was read on from one place, up to two blocks: a reader that seeks from member to member over
large payloads fetches little of them, one that reads everything finds the next block there already. A short seek
forward stays in the window; any other one starts a new window and breaks off what is under way.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from typing import Self

from ecif.storage.reading import Reader
from ecif.storage.s3 import S3Store
from ecif.storage.types import FileInfo

# One request per block; latency is hidden well above 4 MiB.
BLOCK = 8 * 2**20
# Blocks that are fetched ahead of the one that is read.
AHEAD = 2
# What is fetched first, from anywhere: most files are smaller and need no other request.
FIRST = 2**18


class _Block:
    """Bytes of the object from `start` to `stop`: here, or on their way."""

    __slots__ = ("_data", "_under_way", "start", "stop")

    def __init__(self, start: int, data: bytearray, under_way: Future[FileInfo] | None) -> None:
        self.start, self.stop = start, start + len(data)
        self._data, self._under_way = memoryview(data), under_way

    def data(self) -> memoryview:
        if self._under_way is not None:
            self._under_way.result()
            self._under_way = None
        return self._data

    def drop(self) -> None:
        if self._under_way is not None:
            self._under_way.cancel()


class RangeReader(Reader):
    """Reads one S3 object.

    Args:
        store: its server.
        file: the object.
        first: its first bytes.
    """

    def __init__(self, store: S3Store, file: FileInfo, first: bytearray) -> None:
        super().__init__(file.url, file.size, store.options)
        self._store, self._file = store, file
        self._blocks = deque([_Block(0, first, None)])
        # Where the window began.
        self._from = 0

    @classmethod
    def of_url(cls, store: S3Store, url: str, expect: FileInfo | None) -> Self:
        """Open an object by one request, which brings its first bytes, too."""
        first = bytearray(FIRST)
        file = store.run(store.begin(url, first, expect))
        return cls(store, file, first[: file.size])

    def close(self) -> None:
        self._clear()
        super().close()

    def _piece(self, position: int, wanted: int) -> memoryview:
        blocks = self._blocks
        while blocks and blocks[0].stop <= position:
            blocks.popleft().drop()
        if not blocks or blocks[0].start > position:
            self._clear()
            self._from = position
        self._ahead(position, min(wanted, BLOCK))
        block = blocks[0]
        return block.data()[position - block.start :][:wanted]

    def _ahead(self, position: int, wanted: int) -> None:
        """Ask for what is missing of `wanted` bytes from `position` on, and for some that follow."""
        stop = position + wanted
        ahead = min(AHEAD * BLOCK, max(FIRST, 3 * (stop - self._from)))
        while True:
            end = self._blocks[-1].stop if self._blocks else position
            missing = min(stop + ahead, self.size) - end
            # Not in crumbs: a block that is only wished for must be worth a request.
            if missing <= 0 or (end >= stop and missing < min(ahead // 2, BLOCK, self.size - end)):
                return
            data = bytearray(min(missing, BLOCK))
            work = self._store.receive(self.url, end, memoryview(data), self._file)
            self._blocks.append(_Block(end, data, self._store.start(work)))

    def _clear(self) -> None:
        while self._blocks:
            self._blocks.pop().drop()
