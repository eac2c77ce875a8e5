"""What the 512 bytes of a tar header say, and the headers in front of it that correct them.

Understood as Python's tarfile understands them, oddities included, because webdataset and the training loaders read
with it. Where tarfile would end the tar without a word (a number that cannot be read, damaged records), `Malformed`
is raised instead, without a place; the reader knows where it is. Sparse members, and global PAX headers that name or
size members, are refused: they cannot be understood member by member.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from typing import NamedTuple
from zlib import adler32

BLOCK = 512
ZEROS = bytes(BLOCK)

# name; mode, uid, gid; size; mtime; type; devmajor, devminor; prefix
_FIELDS = struct.Struct("100s 24s 12s 12s 8x c 172x 16s 155s 12x")
_WITHOUT_DATA = b"123456"  # links, devices, directories: their size field may be set, but no data follows
_PAX_RECORD = re.compile(rb"(\d{1,20}) ([^=]+)=")
# GNU tar and bsdtar, Solaris, star: each has records of its own for files with holes.
_SPARSE_RECORDS = (b"GNU.sparse.", b"SUN.holesdata", b"SCHILY.realsize")


class Malformed(ValueError):
    """A header that does not add up or is refused; the message says why."""


class Header(NamedTuple):
    """One header: the member's name, the bytes of data that follow, the type flag."""

    name: str
    size: int
    type: bytes


EXTENSIONS = frozenset({b"L", b"K", b"x", b"X"})
"""Types of headers that belong to the next one: a GNU long name or link, PAX records, those of Solaris."""

GLOBAL = b"g"
"""Type of a header with PAX records for all members that follow."""

FILES = frozenset({b"0", b"7", b"\0"})
"""Types of regular files."""

SPARSE = b"S"
"""Type of a sparse file of the old GNU format; newer ones have PAX records that say so."""

SPARSE_REFUSED = "sparse members are not supported; pack the shard again without --sparse"


def is_header(block: bytes) -> bool:
    """Whether 512 bytes are a tar header: its checksum fits."""
    if len(block) != BLOCK or block == ZEROS:
        return False
    field = block[148:156]
    found = _number(field)
    # Adler-32 adds bytes modulo 65521, which 256 of them do not reach: an exact sum, six times faster than sum().
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2
    total += 8 * ord(" ") - sum(field)
    if found == total:
        return True
    # Some old writers summed signed bytes; tarfile accepts both.
    high = sum(byte > 127 for byte in block) - sum(byte > 127 for byte in field)
    return found == total - 256 * high


def parse(block: bytes) -> Header:
    """Read a header whose checksum fits.

    Raises:
        Malformed: a number in it cannot be read.
    """
    name_field, owner, size_field, mtime, kind, device, prefix_field = _FIELDS.unpack(block)
    size = _number(size_field)
    if size is None:
        raise Malformed("the size in the header is not a number")
    if not (_tarfile_reads(owner) and _tarfile_reads(device) and (_number(mtime) is not None or _as_tarfile(mtime))):
        raise Malformed("mode, owner, time or device in the header is not a number, and other readers would end here")
    name = text(name_field)
    if kind == b"\0" and name.endswith("/"):
        kind = b"5"  # how tar wrote directories before 1988
    if prefix_field[0] and kind not in b"LKS":
        name = f"{text(prefix_field)}/{name}"
    if kind == b"5":
        name = name.rstrip("/")
    return Header(name, 0 if kind in _WITHOUT_DATA else size, kind)


def check_global(body: bytes) -> None:
    """Make sure that the records of a global PAX header can be left to the readers.

    Raises:
        Malformed: they are damaged, or name or size members.
    """
    if {b"path", b"size"} & set(_records(body)):
        raise Malformed("a global PAX header that names or sizes members is not supported")


class Extensions:
    """What the extension headers in front of one member say about it."""

    __slots__ = ("_name", "_size")

    def __init__(self) -> None:
        self._name: str | None = None
        self._size: int | None = None

    def add(self, header: Header, body: bytes) -> None:
        """Take in one more; of several that say the same the first wins, as in tarfile.

        Args:
            body: what follows the header, with its padding.

        Raises:
            Malformed: damaged records, or those of a sparse member.
        """
        name: str | None = None
        size: bytes | None = None
        if header.type == b"L":
            name = text(body)
        elif header.type != b"K":
            records = _records(body)
            size, path = records.get(b"size"), records.get(b"path")
            name = None if path is None else path.decode("utf-8", "backslashreplace").rstrip("/")
        if size is not None and not (size.isdigit() and len(size) <= 20):
            raise Malformed(f"the size {size[:20]!r} in a PAX header is not a number")
        self._name = name if self._name is None else self._name
        self._size = int(size) if self._size is None and size is not None else self._size

    def complete(self, header: Header) -> Header:
        """The member's own header, corrected."""
        name = header.name if self._name is None else self._name
        if header.type == b"5":
            name = name.removesuffix("/")
        if header.type in _WITHOUT_DATA or self._size is None:
            return Header(name, header.size, header.type)
        return Header(name, self._size, header.type)


def text(field: bytes) -> str:
    """Bytes up to the first zero; those that are not UTF-8 appear as `\\xff`, so that a name fits in any table."""
    return field.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _records(body: bytes) -> dict[bytes, bytes]:
    records, position = {}, 0
    while position < len(body) and body[position]:
        match = _PAX_RECORD.match(body, position)
        end = position + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(body) or body[end - 1 : end] != b"\n":
            raise Malformed("a PAX header is damaged")
        if match[2].startswith(_SPARSE_RECORDS):
            raise Malformed(SPARSE_REFUSED)
        records[match[2]] = body[match.end() : end - 1]
        position = end
    return records


def _number(field: bytes) -> int | None:
    """A numeric header field: octal digits or, from GNU and star, base 256; None when it is neither or is negative."""
    digits = field.rstrip(b" \0").lstrip()
    if not digits.isdigit():
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        digits = field.partition(b"\0")[0].strip()
        if not digits:
            return 0
        if not digits.isdigit():
            return None
    try:
        return int(digits, 8)
    except ValueError:
        return None


@lru_cache(maxsize=1024)
def _tarfile_reads(fields: bytes) -> bool:
    """Whether tarfile makes numbers of fields of eight bytes that do not matter here; it ends the tar where not."""
    return all(_as_tarfile(fields[i : i + 8]) for i in range(0, len(fields), 8))


def _as_tarfile(field: bytes) -> bool:
    if field[0] in (0x80, 0xFF):
        return True
    try:
        int(field.partition(b"\0")[0].decode("ascii").strip() or "0", 8)
    except ValueError:
        return False
    return True
