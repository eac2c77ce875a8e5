"""Hold a written tar against the members it has to consist of, byte for byte, in one pass over both.

The written tar is not parsed: its bytes have to be those of the members that are expected, in their order, then end
blocks and nothing more. So neither a wrong size nor a wrong name in it can hide anything, and a member may be larger
than memory. Only when something differs is the header that stands there read, to say what it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from ecif.manifest import FileMark
from ecif.shards.entries import Entry
from ecif.shards.headers import BLOCK, Malformed, is_header, parse
from ecif.shards.tar import RECORD
from ecif.shards.window import Stream

_READ_BYTES = 1 << 20


class Comparison:
    """Compares member by member and keeps the first difference.

    Args:
        stream: the written tar, at its start; None when there is none.
        url: the name that a difference gives it.

    Attributes:
        difference: what differs first and where; None as long as nothing does.
    """

    def __init__(self, stream: Stream | None, url: str) -> None:
        self.difference: str | None = None
        self._stream, self._url = stream, url
        self._hash = hashlib.sha256()
        self._data, self._base, self._at = b"", 0, 0  # what is in memory; where it begins; how far it was compared
        self._waiting: list[tuple[Entry, bytes]] = []

    def expect(self, entry: Entry) -> None:
        """The next member has to be this one of the input; reads its `pieces`.

        Raises:
            BadTarError: the input is cut short in this member.
        """
        # A global PAX header behind which nothing survived is left out: see TarWriter.
        if entry.is_global_header:
            self._waiting.append((entry, b"".join(entry.pieces())))
            return
        compare = self.begin(entry)
        for piece in entry.pieces():
            compare(piece)

    def begin(self, entry: Entry) -> Callable[[memoryview], None]:
        """As `expect`, for a caller that needs the pieces for something else, too; not for global PAX headers.

        Returns:
            What takes the pieces of the member, one after another.
        """
        for header, raw in self._waiting:
            self._compare(header, self._offset, memoryview(raw))
        self._waiting = []
        start = self._offset
        return lambda piece: self._compare(entry, start, piece)

    def finish(self) -> FileMark:
        """End blocks as `TarWriter` writes them have to follow, and nothing more.

        Returns:
            Size and sha256 of the whole file, of which there has to be one.
        """
        start = self._offset
        missing = -(-(start + 2 * BLOCK) // RECORD) * RECORD - start
        while self.difference is None and missing:
            found = self._data[self._at : self._at + missing]
            if found.strip(b"\0"):
                self.difference = f"{self._stands(start)} is more than what survived of the input"
            self._at, missing = self._at + len(found), missing - len(found)
            if missing and not self._more():
                self.difference = f"{self._url}: the tar ends at {self._offset} bytes, within its end blocks"
        if self.difference is None and (self._at < len(self._data) or self._more()):
            self.difference = f"{self._url}: more follows the end of the tar, at offset {self._offset}"
        while self._more():
            pass
        return FileMark(self._base, self._hash.hexdigest())

    @property
    def _offset(self) -> int:
        return self._base + self._at

    def _compare(self, entry: Entry, start: int, wanted: memoryview) -> None:
        """Hold some of the bytes of a member, which begins at `start` of the written tar, against what comes next."""
        while wanted and self._stream is not None and self.difference is None:
            if self._at == len(self._data) and not self._more():
                self.difference = f"{self._url}: the tar ends at {self._offset} bytes where {_due(entry)}"
                return
            part = wanted[: len(self._data) - self._at]
            # Unlike ==, which looks at a memoryview byte by byte, this is one comparison of memory.
            if not self._data.startswith(part, self._at):
                self._differ(entry, start, bytes(part))
                return
            self._at, wanted = self._at + len(part), wanted[len(part) :]

    def _differ(self, entry: Entry, start: int, wanted: bytes) -> None:
        found = self._data[self._at : self._at + len(wanted)]
        first = self._offset + next(i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b)
        if first < start + BLOCK and self._name(start) not in (None, entry.name):
            self.difference = f"{self._stands(start)} where {_due(entry)}"
        else:
            self.difference = f"{self._url}: other bytes stand at offset {first} where {_due(entry)}"

    def _stands(self, at: int) -> str:
        name = self._name(at)
        return f"{self._url}: {'something' if name is None else repr(name)} at offset {at}"

    def _name(self, at: int) -> str | None:
        """What the header at an offset names, if it is one and still in memory."""
        block = self._data[at - self._base :][:BLOCK] if at >= self._base else b""
        try:
            return parse(block).name if is_header(block) else None
        except Malformed:
            return None

    def _more(self) -> bool:
        """Go on to the next bytes of the written tar; False at its end."""
        assert self._stream is not None
        self._base += len(self._data)
        self._data, self._at = self._stream.read(_READ_BYTES), 0
        self._hash.update(self._data)
        return bool(self._data)


def _due(entry: Entry) -> str:
    return f"the input's member {entry.name!r} of offset {entry.offset} has to stand, byte for byte"
