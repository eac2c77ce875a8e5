"""Tar members as raw bytes: read in one forward pass, written again without touching a bit.

Python's tarfile parses headers into objects and writes new ones, which changes bytes (PAX records, padding, number
formats) and stops without a word at a damaged header. This reader keeps what it read, headers and padding included,
and raises at everything that does not add up. The trade-off: a member is held in memory as a whole, so its size has
a limit. Names and types are understood as tarfile understands them (USTAR, GNU long names, PAX per member and
global), because that is what webdataset and the training loaders read with. Format: POSIX.1-2017 `pax`, and the
section "Basic Tar Format" of the GNU tar manual.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ecif.errors import BadTarError
from ecif.shards import headers, names
from ecif.shards.headers import BLOCK, ZEROS, Extensions, Header, Malformed

RECORD = 20 * BLOCK  # GNU tar and Python's tarfile fill the file up to a multiple of this
_MiB = 1 << 20
_EXTENSION_BYTES = 1 * _MiB  # largest extension header (long name, PAX records) that is read


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused instead of being held in memory or decoded.

    Attributes:
        member_bytes: payload of one member. sample_bytes, members_per_sample: of all members of a sample.
        caption_bytes, json_bytes: text of a caption; size of a `.json` member that is parsed.
        pixels: width times height of an image, checked before it is decoded.
    """

    member_bytes: int = 256 * _MiB
    sample_bytes: int = 512 * _MiB
    members_per_sample: int = 64
    caption_bytes: int = 64 * 1024
    json_bytes: int = 4 * _MiB
    pixels: int = 64_000_000


@dataclass(frozen=True, slots=True)
class Member:
    """One tar member.

    Attributes:
        name: as tarfile gives it; bytes that are not UTF-8 appear as `\\xff`, so that a name fits in any table.
        raw: extension headers (PAX, GNU long name), header, data and padding, exactly as read.
        data_start, size: where the data lies in `raw`.
        offset: of the first header, in the file.
        is_file: a regular file; directories, links and global PAX headers are not.
    """

    name: str
    raw: bytes
    data_start: int
    size: int
    offset: int
    is_file: bool

    @property
    def data(self) -> memoryview:
        """The payload."""
        return memoryview(self.raw)[self.data_start : self.data_start + self.size]

    @property
    def has_pax(self) -> bool:
        """Whether its first header is a PAX header: its own or, when it is one itself, a global one."""
        return self.raw[156:157] in (b"x", b"g", b"X")

    @property
    def is_global_header(self) -> bool:
        """Whether it is a global PAX header, which says something about the members that follow."""
        return self.raw[156:157] == b"g"


def read_members(stream: BinaryIO, url: str, limits: Limits = Limits()) -> Iterator[Member]:
    """The members of a tar, in order, in one forward pass; memory: one member.

    The tar may lack its end blocks when its last member is complete; what follows the end blocks is not read.

    Args:
        stream: the tar, at its start.
        url: the name that errors give it.

    Raises:
        BadTarError: the file is empty, is not a tar, is cut short or damaged, or holds a member that is refused: a
            sparse one, one above `limits.member_bytes`, or a global PAX header that renames or resizes members.
    """
    return iter(TarReader(stream, url, limits))


def count_samples(stream: BinaryIO, url: str) -> int:
    """How many samples a tar holds, reading headers only where the stream can seek.

    Raises:
        BadTarError: as `read_members`.
    """
    count, current = 0, None
    for member in TarReader(stream, url, Limits(), payload=False):
        if member.is_file and (found := names.split(member.name)) is not None and found[0] != current:
            count, current = count + 1, found[0]
    return count


class TarReader:
    """Iterates over the members of one tar and keeps where it is.

    Args:
        stream: the tar, at its start.
        url: the name that errors give it.
        payload: False skips the payload: `Member.raw` then holds only the headers.

    Attributes:
        offset: bytes consumed.
        end_blocks: how many of the two zero blocks that end a tar were there: 0, 1 or 2.
    """

    def __init__(self, stream: BinaryIO, url: str, limits: Limits = Limits(), *, payload: bool = True) -> None:
        self._stream, self._url, self._limits, self._payload = stream, url, limits, payload
        self.offset = 0
        self.end_blocks = 0

    def __iter__(self) -> Iterator[Member]:
        while (member := self._next()) is not None:
            yield member

    def _next(self) -> Member | None:
        start, extensions = self.offset, Extensions()
        while True:
            at, block = self.offset, self._read(BLOCK)
            if len(block) < BLOCK or block == ZEROS:
                self._end(block, at, extensions)
                return None
            header = self._header(block, at)
            if not (header.is_extension or header.is_global):
                return self._member(start, at, block, header, extensions)
            body = self._body(header, at)
            try:
                if header.is_global:
                    if extensions.raw:
                        raise Malformed("a global PAX header stands between a member and its own headers")
                    headers.check_global(body[: header.size])
                    return Member(header.name, block + body, BLOCK, header.size, at, is_file=False)
                extensions.add(header, body[: header.size])
            except Malformed as error:
                raise self._bad(str(error), at, header.name) from error
            extensions.raw += [block, body]

    def _header(self, block: bytes, at: int) -> Header:
        if headers.is_header(block):
            try:
                return headers.parse(block)
            except Malformed as error:
                raise self._bad(str(error), at) from error
        if at == 0:
            hint = " (it is compressed with gzip; only plain .tar is read)" if block[:2] == b"\x1f\x8b" else ""
            raise self._bad(f"not a tar file{hint}", at)
        raise self._bad("no tar header where one is due: the file is damaged here; fetch it again", at)

    def _member(self, start: int, at: int, block: bytes, header: Header, extensions: Extensions) -> Member:
        try:
            header = extensions.complete(header)
        except Malformed as error:
            raise self._bad(str(error), at, header.name) from error
        if header.size > self._limits.member_bytes:
            problem = f"the member has {header.size} bytes, more than the limit of {self._limits.member_bytes}"
            raise self._bad(problem, at, header.name)
        data = self._data(-(-header.size // BLOCK) * BLOCK, at, header.name)
        head = b"".join([*extensions.raw, block])
        size = header.size if self._payload else 0
        return Member(header.name, head + data, len(head), size, start, header.is_file)

    def _body(self, header: Header, at: int) -> bytes:
        """What follows an extension header, with its padding."""
        if header.size > _EXTENSION_BYTES:
            raise self._bad(f"a long-name or PAX header of {header.size} bytes is refused", at, header.name)
        padded = -(-header.size // BLOCK) * BLOCK
        body = self._read(padded)
        if len(body) < padded:
            raise self._cut(at, header.name)
        return body

    def _data(self, padded: int, at: int, name: str) -> bytes:
        """The payload of a member with its padding; nothing when payloads are skipped."""
        if self._payload or not padded or not self._stream.seekable():
            data = self._read(padded)
            if len(data) < padded:
                raise self._cut(at, name)
            return data if self._payload else b""
        # Seeking past the end succeeds, so the last byte is read to know that it is there.
        self._stream.seek(padded - 1, 1)
        self.offset += padded - 1
        if not self._read(1):
            raise self._cut(at, name)
        return b""

    def _end(self, block: bytes, at: int, extensions: Extensions) -> None:
        """The tar may end here: at the end of the file, or with zero blocks."""
        if extensions.raw:
            raise self._bad("the header of a long name or PAX record is followed by no member", at)
        if len(block) == BLOCK:
            self._read_end(at)
        elif at == 0:
            raise self._bad("not a tar file: shorter than one header" if block else "empty file", at)
        elif block:
            raise self._bad("the file is cut short in a header; fetch it again", at)

    def _read_end(self, at: int) -> None:
        self.end_blocks = 1
        block = self._read(BLOCK)
        if block.strip(b"\0"):
            raise self._bad("a zero block is followed by data: the file is damaged here", at)
        self.end_blocks += len(block) == BLOCK

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            # Sockets and pipes return what they have; only an empty answer is the end.
            parts, missing = [data], size - len(data)
            while missing and (more := self._stream.read(missing)):
                parts.append(more)
                missing -= len(more)
            data = b"".join(parts)
        self.offset += len(data)
        return data

    def _bad(self, problem: str, at: int, member: str | None = None) -> BadTarError:
        return BadTarError(problem, url=self._url, member=member, offset=at)

    def _cut(self, at: int, member: str) -> BadTarError:
        return self._bad(f"the file is cut short in this member, at {self.offset} bytes; fetch it again", at, member)


class TarWriter:
    """Writes raw members one after another; the stream stays open and belongs to the caller.

    A global PAX header waits for the next member, and is left out when none follows: it would say something about
    nothing, and tarfile, hence webdataset, raises at a tar that ends with one.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._size, self._hash = stream, 0, hashlib.sha256()
        self._waiting: list[bytes] = []

    def write(self, raw: bytes) -> None:
        """Append a member as it was read: headers, data and padding."""
        self._waiting.append(raw)
        if raw[156:157] != b"g":
            for part in self._waiting:
                self._append(part)
            self._waiting = []

    def close(self) -> tuple[int, str]:
        """End the tar as GNU tar and tarfile do: two zero blocks, filled up to 10,240 bytes.

        Returns:
            Size and sha256 (hex) of the whole tar.
        """
        end = self._size + 2 * BLOCK
        self._append(bytes(-(-end // RECORD) * RECORD - self._size))
        return self._size, self._hash.hexdigest()

    def _append(self, data: bytes) -> None:
        self._stream.write(data)
        self._hash.update(data)
        self._size += len(data)
