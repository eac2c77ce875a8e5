"""What the 512 bytes of a tar header say, and the headers in front of it that correct them.

Understood as Python's tarfile understands them, oddities included. Problems are raised as `Malformed` without a
place; the reader knows where it is. Sparse members, and global PAX headers that name or size members, are refused:
they cannot be understood member by member.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

BLOCK = 512
ZEROS = bytes(BLOCK)

_WITHOUT_DATA = b"123456"  # links, devices, directories: their size field may be set, but no data follows
_PAX_RECORD = re.compile(rb"(\d{1,20}) ([^=]+)=")
_SPARSE = "sparse members are not supported; pack the shard again without --sparse"


class Malformed(ValueError):
    """A header that does not add up or is refused; the message says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """One header: the member's name, the bytes of data that follow, the type flag."""

    name: str
    size: int
    type: bytes

    @property
    def is_extension(self) -> bool:
        """Whether it belongs to the next header: a GNU long name or link, or PAX records."""
        return self.type in (b"L", b"K", b"x", b"X")

    @property
    def is_global(self) -> bool:
        """Whether it holds PAX records for all that follow."""
        return self.type == b"g"

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.type in (b"0", b"7", b"\0")


def is_header(block: bytes) -> bool:
    """Whether 512 bytes are a tar header: its checksum fits."""
    if len(block) != BLOCK or block == ZEROS:
        return False
    found = _number(block[148:156])
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if found == total:
        return True
    # Some old writers summed signed bytes; tarfile accepts both.
    high = sum(byte > 127 for byte in block) - sum(byte > 127 for byte in block[148:156])
    return found == total - 256 * high


def parse(block: bytes) -> Header:
    """Read a header whose checksum fits.

    Raises:
        Malformed: its size is not a number.
    """
    size = _number(block[124:136])
    name, prefix, kind = _text(block[:100]), _text(block[345:500]), block[156:157]
    if kind == b"\0" and name.endswith("/"):
        kind = b"5"  # how tar wrote directories before 1988
    if prefix and kind not in b"LKS":
        name = f"{prefix}/{name}"
    if size is None:
        raise Malformed("the size in the header is not a number")
    return Header(name, size, kind)


def check_global(body: bytes) -> None:
    """Make sure that the records of a global PAX header can be left to the readers.

    Raises:
        Malformed: they are damaged, or name or size members.
    """
    if {b"path", b"size"} & set(_records(body)):
        raise Malformed("a global PAX header that names or sizes members is not supported")


class Extensions:
    """The extension headers in front of one member, and what they say about it.

    Attributes:
        raw: headers and bodies with their padding, as read.
    """

    __slots__ = ("_name", "_size", "raw")

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self._name: str | None = None
        self._size: int | None = None

    def add(self, header: Header, body: bytes) -> None:
        """Take in one more; of several that say the same the first wins, as in tarfile.

        Raises:
            Malformed: damaged records, or those of a sparse member.
        """
        name: str | None = None
        size: bytes | None = None
        if header.type == b"L":
            name = _text(body)
        elif header.type != b"K":
            records = _records(body)
            size = records.get(b"size") or None
            name = records[b"path"].decode("utf-8", "backslashreplace").rstrip("/") if records.get(b"path") else None
        if size is not None and not (size.isdigit() and len(size) <= 20):
            raise Malformed(f"the size {size[:20]!r} in a PAX header is not a number")
        self._name = name if self._name is None else self._name
        self._size = int(size) if self._size is None and size is not None else self._size

    def complete(self, header: Header) -> Header:
        """The member's own header, corrected.

        Raises:
            Malformed: a sparse member.
        """
        if header.type == b"S":
            raise Malformed(_SPARSE)
        name = header.name if self._name is None else self._name
        size = header.size if self._size is None else self._size
        if header.type == b"5":
            name = name.rstrip("/")
        return replace(header, name=name, size=0 if header.type in _WITHOUT_DATA else size)


def _records(body: bytes) -> dict[bytes, bytes]:
    records, position = {}, 0
    while position < len(body) and body[position]:
        match = _PAX_RECORD.match(body, position)
        end = position + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(body) or body[end - 1 : end] != b"\n":
            raise Malformed("a PAX header is damaged")
        if match[2].startswith(b"GNU.sparse."):
            raise Malformed(_SPARSE)
        records[match[2]] = body[match.end() : end - 1]
        position = end
    return records


def _number(field: bytes) -> int | None:
    """A numeric header field: octal digits or, from GNU, base 256; None when it is neither or is negative."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip()
    if not digits:
        return 0
    return int(digits, 8) if digits.isdigit() and b"8" not in digits and b"9" not in digits else None


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "backslashreplace")
