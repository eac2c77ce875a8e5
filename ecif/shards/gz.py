"""Gzip around a tar, taken off while it streams.

Recognised by its first bytes, whatever the file is called. A file may consist of several gzip streams one after
another, as parallel compressors and `cat` write them, and may be filled up with zeros, as gzip itself allows. All
else is damage: a stream that ends early, a checksum or length that does not fit, anything behind the last stream.
Decompressed data are handed out in bounded pieces, so that a bomb costs time in proportion to what is read of it, and
no memory. The price is one thread of zlib: some 300 MB a second.
"""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING

from ecif.errors import BadTarError

if TYPE_CHECKING:
    from ecif.shards.window import Stream

_MAGIC = b"\x1f\x8b"
# By the first bytes: what packs it, and the command that unpacks it.
_OTHERS = {
    b"\x28\xb5\x2f\xfd": "zstd -d",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\0": "unxz",
    b"\x04\x22\x4d\x18": "lz4 -d",
    b"\x1f\x9d": "uncompress",
    b"PK\3\4": "unzip",
}
_GZIP = 16 + zlib.MAX_WBITS  # zlib's way to say: with gzip's header and trailer
_READ_BYTES = 1 << 18  # of compressed bytes: also how exactly the place of a damage is known


def is_gzip(data: bytes) -> bool:
    """Whether data begin as gzip data do."""
    return data.startswith(_MAGIC)


def other_compression(data: bytes) -> str:
    """For a message about what is no tar: how it is compressed, if it is, and the way out."""
    unpack = next((unpack for magic, unpack in _OTHERS.items() if data.startswith(magic)), None)
    return "" if unpack is None else f" (it is compressed, and only gzip is taken off: unpack it with {unpack})"


class Gunzip:
    """Reads forward through compressed data.

    Args:
        first: the compressed bytes that were read already.
        stream: the rest of them.
        url: the name that errors give the file.
    """

    def __init__(self, first: bytes, stream: Stream, url: str) -> None:
        self._first, self._stream, self._url = io.BytesIO(first), stream, url
        self._input = b""
        self._offset = 0  # of the first byte of _input in the compressed file
        self._inflate = zlib.decompressobj(_GZIP)
        self._started = False  # whether the current gzip stream has had any input

    def read(self, size: int) -> bytes:
        """At most `size` decompressed bytes, at least one unless the data end.

        Raises:
            BadTarError: damaged or cut short; the offset is the one in the compressed file.
        """
        while True:
            if not self._input and not self._refill():
                if self._started:
                    raise self._bad("the gzip data end early: the file is cut short; fetch it again")
                return b""
            if not self._started and not self._next_stream():
                continue
            if data := self._decompress(size):
                return data

    def _decompress(self, size: int) -> bytes:
        try:
            data = self._inflate.decompress(self._input, size)
        except zlib.error as error:
            problem = f"the gzip data are damaged here or in the {_READ_BYTES} bytes that follow ({error})"
            raise self._bad(f"{problem}; fetch the file again") from error
        if self._inflate.eof:
            self._consume(self._inflate.unused_data)
            self._inflate, self._started = zlib.decompressobj(_GZIP), False
        else:
            self._consume(self._inflate.unconsumed_tail)
        return data

    def _next_stream(self) -> bool:
        """Step to the next gzip stream; False when more input is needed to tell whether there is one."""
        self._consume(self._input.lstrip(b"\0") if self._offset else self._input)
        if len(self._input) < len(_MAGIC) and (not self._input or self._refill()):
            return False
        if not self._input.startswith(_MAGIC):
            raise self._bad("something that is no gzip data follows the end of the gzip data")
        self._started = True
        return True

    def _refill(self) -> bool:
        more = self._first.read(_READ_BYTES) or self._stream.read(_READ_BYTES)
        self._input += more
        return bool(more)

    def _consume(self, left: bytes) -> None:
        self._offset += len(self._input) - len(left)
        self._input = left

    def _bad(self, problem: str) -> BadTarError:
        return BadTarError(problem, url=self._url, offset=self._offset)
