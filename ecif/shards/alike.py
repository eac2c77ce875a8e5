"""Reads the headers of plain files that differ from an earlier one in name, size, time and checksum only.

Within one shard nearly all headers are like that, and where only bytes are copied, reading headers is most of the
work. One is read by comparing the rest of it at once; those of a whole block of the tar are found by the word that
holds `ustar`, checked together, and followed from each to the one that its size leads to. What is not alike, whatever
else it may be, is left to the long way.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from zlib import adler32

import numpy as np
import numpy.typing as npt

from ecif.shards import names
from ecif.shards.headers import BLOCK, text

# name; mode, uid, gid; size; mtime; checksum; type; all but the last byte of the link's name; the rest
_PARTS = struct.Struct("100s 24s 12s 12s 8s c 99s 256s")
_MAGIC = 256 // 8  # the word of a header with the last byte of the link's name, `ustar` and what follows it
_OCTAL = 8 ** np.arange(10, -1, -1, dtype=np.int64)
_LOW_BYTES = np.uint64(0x00FF00FF00FF00FF)
_LANES = np.uint64(0x0001000100010001)

# Of the bytes from the 96th on those that have to be the same; of those from the 124th on those that are octal digits.
_SAME = np.full(BLOCK - 96, 0xFF, dtype=np.uint8)
_NOT_OCTAL = np.zeros(32, dtype=np.uint8)
for _start, _length in ((124, 11), (136, 11), (148, 6)):
    _SAME[_start - 96 : _start - 96 + _length] = 0
    _NOT_OCTAL[_start - 124 : _start - 124 + _length] = 0xF8
_SAME[:4] = 0  # the end of the name
_SAME = _SAME.view(np.uint64)
_SHORT = 32  # bytes of most names

Words = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Run:
    """n members that follow each other, as far as one block of the tar shows their headers.

    Attributes:
        offset: of the first one's header, in the tar.
        ends: offsets in the tar of what follows each, of shape (n,); the last one may end beyond the block.
        sizes: of their data, of shape (n,).
        prefix: begins all names. fields: what their headers give as the rest, of shape (n, 100).
    """

    offset: int
    ends: Numbers
    sizes: Numbers
    prefix: str
    fields: npt.NDArray[np.uint8]

    def names(self) -> list[str]:
        """The n names as `headers` reads them."""
        return self._names(self.fields)

    def last(self) -> tuple[int, str]:
        """Offset and name of the last member."""
        offset = int(self.ends[-2]) if len(self.ends) > 1 else self.offset
        return offset, self._names(self.fields[-1:])[0]

    def groups(self) -> tuple[list[str | None], list[int]]:
        """Members side by side whose names begin alike up to the dot that ends webdataset's key.

        Returns:
            The key of each group, None for members that belong to no sample, and the offset of what follows its last
            member. One sample may be in several groups.
        """
        fields = self.fields
        if not fields[:, _SHORT:].any():
            fields = fields[:, :_SHORT]
        columns = np.arange(fields.shape[1], dtype=np.int8)
        dots = fields == ord(".")
        if (slashes := fields == ord("/")).any():
            dots &= columns > np.where(slashes, columns, np.int8(-1)).max(axis=1, keepdims=True)
        dot = dots.argmax(axis=1)
        # Behind a zero there is no name, a dot in front would be found as none is, and webdataset has rules of its own
        # for names with `__`, for a dot behind a slash and for line breaks. These stay alone.
        rows = np.arange(len(fields))
        plain = (dot > 0) & (dot < (fields == 0).argmax(axis=1)) & (fields[rows, dot - 1] != ord("/"))
        plain &= fields[:, 0] != ord("_")
        if (breaks := fields == ord("\n")).any():
            plain &= ~breaks.any(axis=1)
        if self.prefix.startswith("_") or "\n" in self.prefix:
            plain[:] = False
        behind = columns >= dot[:, None]
        same = ((fields[1:] == fields[:-1]) | behind[1:]).all(axis=1) & (dot[1:] == dot[:-1])
        begins = np.append(True, ~(same & plain[1:] & plain[:-1]))
        first = np.flatnonzero(begins)
        keys = self._keys(fields[first], behind[first], plain[first], first)
        return keys, self.ends[np.append(first[1:], len(fields)) - 1].tolist()

    def _keys(
        self, fields: npt.NDArray[np.uint8], behind: Truths, plain: Truths, places: npt.NDArray[np.intp]
    ) -> list[str | None]:
        fields[behind] = 0
        keys: list[str | None] = list(self._names(fields))
        for place in np.flatnonzero(~plain).tolist():
            parts = names.split(self._names(self.fields[places[place], None])[0])
            keys[place] = None if parts is None else parts[0]
        return keys

    def _names(self, fields: npt.NDArray[np.uint8]) -> list[str]:
        # Zeros behind it are no part of such a string.
        found: list[bytes] = np.ascontiguousarray(fields).view(f"S{fields.shape[1]}").ravel().tolist()
        joined = b"\0".join(found)
        if joined.count(b"\0") >= len(found):
            joined = b"\0".join([field.partition(b"\0")[0] for field in found])
        texts = joined.decode("utf-8", "backslashreplace").split("\0")
        return [self.prefix + name for name in texts] if self.prefix else texts


class Alike:
    """Reads headers like an earlier one.

    Args:
        block: a header of type `0` whose checksum fits and which `headers.parse` reads.
    """

    __slots__ = ("_fixed", "_owner", "_prefix", "_rest", "_shown", "_sum", "_tail_sum")

    def __init__(self, block: bytes) -> None:
        _, self._owner, _, _, _, _, _, self._rest = _PARTS.unpack(block)
        prefix = text(block[345:500])
        self._prefix = f"{prefix}/" if prefix else ""
        self._sum = (adler32(self._rest) & 0xFFFF) - 1
        self._fixed: Words = np.frombuffer(block, np.uint64)
        self._tail_sum = sum(block[160:])
        # What the checksum's field adds beside its digits, less the spaces that are counted instead.
        self._shown = 6 * ord("0") + sum(block[154:156]) - 8 * ord(" ")

    def read(self, data: bytes, at: int) -> tuple[str, int] | None:
        """Name and size of the header at an offset; None when it is not alike."""
        name, owner, size, mtime, checksum, kind, _, rest = _PARTS.unpack_from(data, at)
        if rest != self._rest or owner != self._owner or kind != b"0":
            return None
        digits = size[:11] + mtime[:11] + checksum[:6]
        if not digits.isdigit() or b"8" in digits or b"9" in digits:
            return None
        if size[11] not in b"\0 " or mtime[11] not in b"\0 " or checksum[6:] != b"\0 ":
            return None
        total = (adler32(data[at : at + 256]) & 0xFFFF) - (adler32(checksum) & 0xFFFF) + 8 * ord(" ") + self._sum
        if int(checksum[:6], 8) != total:
            return None
        return self._prefix + text(name), int(size[:11], 8)

    def run(self, data: bytes, at: int, base: int) -> Run | None:
        """All headers from one on that are alike and lead to each other; None when the first one is not.

        Args:
            data: a block of the tar. at: where in it the first header stands. base: where in the tar it begins.
        """
        count = (len(data) - at) // BLOCK
        words = np.frombuffer(data, np.uint64, count * (BLOCK // 8), at).reshape(count, BLOCK // 8)
        places = np.flatnonzero(words[:, _MAGIC] == self._fixed[_MAGIC])
        if not len(places) or places[0] != 0:
            return None
        found = np.take(words, places, axis=0)
        fits, sizes = self._fits(found)
        if not fits[0]:
            return None
        follow = places + 1 + -(-sizes // BLOCK)
        # Where in `places` the header stands that each leads to; between them, payload may look like one.
        lead = np.searchsorted(places, follow)
        known = np.minimum(lead, len(places) - 1)
        linked = fits[known] & (places[known] == follow)
        steps = np.arange(len(places))
        end = np.flatnonzero(~linked | (lead != steps + 1))[0]
        chosen = _walk(lead.tolist(), linked.tolist()) if linked[end] else steps[: end + 1]
        ends = base + at + BLOCK * follow[chosen]
        return Run(base + at, ends, sizes[chosen], self._prefix, found.view(np.uint8)[chosen, :100])

    def _fits(self, found: Words) -> tuple[Truths, Numbers]:
        """Which of n candidates, of shape (n, 64), are alike and have their checksum; and their sizes."""
        fits = np.ones(len(found), dtype=np.bool_)
        fields = found.view(np.uint8)
        digits = fields[:, 124:156] - np.uint8(ord("0"))  # of size, time and checksum, with what ends them
        for differs in ((found[:, 12:] ^ self._fixed[12:]) & _SAME, (digits & _NOT_OCTAL).view(np.uint64)):
            if differs.any():
                fits &= ~differs.any(axis=1)
        sizes = digits[:, :11].astype(np.int64) @ _OCTAL
        checksums = digits[:, 24:30].astype(np.int64) @ _OCTAL[5:]
        # The sum of all bytes with spaces in place of the checksum's own.
        shown = digits[:, 24:30].sum(axis=1, dtype=np.int64) + self._shown
        fits &= checksums == _sums(found[:, :20]) + self._tail_sum - shown
        return fits, np.where(fits, sizes, 0)


def _sums(words: Words) -> Numbers:
    """Sums of the bytes of each row of at most 32 words: what is added in 16 bits does not run over."""
    lanes = ((words & _LOW_BYTES) + ((words >> np.uint64(8)) & _LOW_BYTES)) @ np.ones(words.shape[1], np.uint64)
    return ((lanes * _LANES) >> np.uint64(48)).astype(np.int64)


def _walk(lead: list[int], linked: list[bool]) -> list[int]:
    at, chosen = 0, [0]
    while linked[at]:
        at = lead[at]
        chosen.append(at)
    return chosen
