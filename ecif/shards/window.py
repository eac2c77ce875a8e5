"""The stretch of a tar that is in memory: one block of a few MiB that moves forward, decompressed.

Headers and payloads are looked at where they lie in the block, so that copying a member costs one copy of its bytes
and a member may be larger than memory. Offsets are those of the tar, which for a gzip file is what comes out of it.
"""

from __future__ import annotations

from typing import Protocol

from ecif.shards import gz
from ecif.shards.headers import BLOCK, is_header

_READ_BYTES = 4 << 20
_READ_AFTER_SEEK = 64 << 10  # where only headers are wanted


class Stream(Protocol):
    """What a tar is read from: a file, or whatever else can hand out its bytes in order."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none only at the end."""
        ...

    def seekable(self) -> bool: ...

    def seek(self, offset: int, whence: int, /) -> int: ...


class Window:
    """Moves over a stream.

    Args:
        stream: the file, at its start.
        url: the name that errors give it.
        seek: jump over what is not asked for where the stream can, instead of reading it.

    Attributes:
        data: what is in memory. base: where in the tar it begins.
    """

    __slots__ = ("_seekable", "_stream", "base", "data")

    def __init__(self, stream: Stream, url: str, *, seek: bool) -> None:
        self._stream: Stream | gz.Gunzip = stream
        self._seekable = stream if seek and stream.seekable() else None
        self.data, self.base = b"", 0
        while len(self.data) < BLOCK and (more := self._read()):
            self.data += more
        if gz.is_gzip(self.data) and not is_header(self.data[:BLOCK]):
            self._stream, self._seekable = gz.Gunzip(self.data, stream, url), None
            self.data = self._read()

    @property
    def end(self) -> int:
        """Where in the tar that what is in memory ends."""
        return self.base + len(self.data)

    def peek(self, at: int, size: int, keep: int) -> bytes:
        """Bytes at an offset, fewer only at the end of the file; all from the offset `keep` on stays in memory."""
        here = at - self.base
        if here + size > len(self.data):
            self.data, self.base = self.data[keep - self.base :], keep
            here = at - keep
            while here + size > len(self.data) and (more := self._read()):
                self.data += more
        return self.data[here : here + size]

    def forward(self) -> bool:
        """Exchange what is in memory for what follows it; False at the end of the file."""
        self.base += len(self.data)
        self.data = self._read()
        return bool(self.data)

    def skip_to(self, offset: int) -> bool:
        """Move so far that all before an offset is there or behind; False when the file ends before it."""
        while (missing := offset - self.end) > 0:
            if self._seekable is not None and missing > _READ_AFTER_SEEK:
                # Seeking past the end succeeds, so the last byte is read to know that it is there.
                self._seekable.seek(missing - 1, 1)
                self.data, self.base = b"", offset - 1
            if not self.forward():
                return False
        return True

    def _read(self) -> bytes:
        return self._stream.read(_READ_BYTES if self._seekable is None else _READ_AFTER_SEEK)
