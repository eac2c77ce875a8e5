"""Tar members as raw bytes: read in one forward pass, written again without touching a bit.

Python's tarfile parses headers into objects and writes new ones, which changes bytes (PAX records, padding, number
formats) and stops without a word at a damaged header. This reader hands out what it read, headers and padding
included, and raises at everything that does not add up. `scan` holds no payload: one block of the file is in memory,
whatever the size of a member; `read_members` puts whole members into memory, so their size has a limit. Names and
types are understood as tarfile understands them (see `headers`), because that is what webdataset and the training
loaders read with. Format: POSIX.1-2017 `pax`, and the section "Basic Tar Format" of the GNU tar manual.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from ecif.errors import BadTarError
from ecif.shards import names
from ecif.shards.entries import Entry as Entry
from ecif.shards.entries import Scan as Scan
from ecif.shards.entries import Stretch as Stretch
from ecif.shards.headers import BLOCK, GLOBAL
from ecif.shards.limits import Limits as Limits
from ecif.shards.window import Stream

RECORD = 20 * BLOCK  # GNU tar and Python's tarfile fill the file up to a multiple of this


def scan(stream: Stream, url: str, limits: Limits = Limits()) -> Scan:
    """The members of a tar in order, in one forward pass that holds no payload; gzip is taken off.

    The tar may lack its end blocks when its last member is complete. What follows the end blocks is read, so that a
    shortened file is noticed, but is no member; see `Scan.trailing`.

    Args:
        stream: the tar, at its start.
        url: the name that errors give it.
        limits: only `header_bytes` counts here.

    Raises:
        BadTarError: the file is empty, is not a tar, is cut short or damaged, or holds a member that is refused: a
            sparse one, or a global PAX header that renames or resizes members.
    """
    return Scan(stream, url, limits.header_bytes)


@dataclass(frozen=True, slots=True)
class Member:
    """One tar member in memory.

    Attributes:
        name, offset: as of an `Entry`.
        raw: extension headers, header, data and padding, exactly as read.
        data_start, size: where the data lies in `raw`.
        is_file: a regular file; directories, links and global PAX headers are not.
        has_pax: whether one of its headers is a PAX header.
    """

    name: str
    raw: bytes
    data_start: int
    size: int
    offset: int
    is_file: bool
    has_pax: bool

    @property
    def data(self) -> memoryview:
        """The payload."""
        return memoryview(self.raw)[self.data_start : self.data_start + self.size]

    @property
    def is_global_header(self) -> bool:
        """Whether it is a global PAX header, which says something about the members that follow."""
        return self.raw[156:157] == GLOBAL


def read_members(stream: Stream, url: str, limits: Limits = Limits()) -> Iterator[Member]:
    """The members of a tar with their data, in order, in one forward pass; memory: one member.

    Raises:
        BadTarError: as `scan`, and for a member above `limits.member_bytes`.
    """
    return hold(scan(stream, url, limits), url, limits)


def hold(entries: Iterable[Entry], url: str, limits: Limits = Limits()) -> Iterator[Member]:
    """The members of a scan, each put into memory before the next one is looked for.

    Raises:
        BadTarError: a member is larger than `limits.member_bytes`, or what `scan` raises.
    """
    for entry in entries:
        if entry.size > limits.member_bytes:
            problem = f"the member has {entry.size} bytes, more than the limit of {limits.member_bytes}"
            raise BadTarError(problem, url=url, member=entry.name, offset=entry.offset)
        raw = b"".join(entry.pieces())
        start = len(raw) - -(-entry.size // BLOCK) * BLOCK
        yield Member(entry.name, raw, start, entry.size, entry.offset, entry.is_file, entry.has_pax)


def count_samples(stream: Stream, url: str) -> int:
    """How many samples a tar holds, reading headers only where the stream can seek.

    Raises:
        BadTarError: as `scan`.
    """
    count, current = 0, None
    for entry in Scan(stream, url, Limits().header_bytes, seek=True):
        if entry.is_file and (found := names.split(entry.name)) is not None and found[0] != current:
            count, current = count + 1, found[0]
    return count


class Sink(Protocol):
    """Where a tar is written to."""

    def write(self, data: bytes | memoryview, /) -> object: ...


class TarWriter:
    """Writes raw members one after another; the sink stays open and belongs to the caller.

    A global PAX header waits for the next member, and is left out when none follows: it would say something about
    nothing, and tarfile, hence webdataset, raises at a tar that ends with one.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink, self._size = sink, 0
        self._waiting: list[bytes] = []
        self._block: bytes | None = None  # holds what is gathered, from `_start` to `_end`
        self._start = self._end = 0

    def add(self, entry: Stretch) -> None:
        """Append members of a scan. Those that stand side by side in one block are passed on together.

        Raises:
            BadTarError: the file that is scanned is cut short in them.
        """
        if entry.is_global_header:
            self._waiting.append(b"".join(entry.pieces()))
            return
        self._size += entry.length
        held = entry.held()
        if held is not None:
            block, start = held
            if block is not self._block or start != self._end or self._waiting:
                self.flush()
                self._release()
                self._block, self._start = block, start
            self._end = start + entry.length
            return
        self.flush()
        self._release()
        for piece in entry.pieces():
            self._sink.write(piece)

    def flush(self) -> None:
        """Pass on what `add` has gathered; `write` and `end` do so, too."""
        if self._block is not None:
            self._sink.write(memoryview(self._block)[self._start : self._end])
            self._block = None

    def write(self, raw: bytes) -> None:
        """Append a member as it was read: headers, data and padding."""
        if raw[156:157] == GLOBAL:
            self._waiting.append(raw)
            return
        self.flush()
        self._release()
        self._append(raw)

    def end(self) -> int:
        """End the tar as GNU tar and tarfile do: two zero blocks, filled up to 10,240 bytes.

        Returns:
            Size of the whole tar.
        """
        self.flush()
        end = self._size + 2 * BLOCK
        self._append(bytes(-(-end // RECORD) * RECORD - self._size))
        return self._size

    def _release(self) -> None:
        if self._waiting:
            for raw in self._waiting:
                self._append(raw)
            self._waiting = []

    def _append(self, data: bytes) -> None:
        self._sink.write(data)
        self._size += len(data)
