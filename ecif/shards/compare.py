"""Hold a written tar against the members it has to consist of, byte for byte, in one pass over both."""

from __future__ import annotations

import hashlib
from typing import BinaryIO, cast

from ecif.manifest import FileMark
from ecif.shards.tar import Member, read_members

_COPY_BYTES = 1 << 20


class Comparison:
    """Compares member by member and keeps the first difference.

    Args:
        stream: the written tar, at its start; None when there is none.
        url: the name that a difference gives it.

    Attributes:
        difference: what differs first and where; None as long as nothing does.
    """

    def __init__(self, stream: BinaryIO | None, url: str) -> None:
        self.difference: str | None = None
        self._hashed = None if stream is None else _Hashed(stream)
        self._members = iter(()) if self._hashed is None else read_members(cast(BinaryIO, self._hashed), url)
        self._url = url
        self._waiting: list[Member] = []

    def expect(self, member: Member) -> None:
        """The next member has to be this one of the input.

        Raises:
            BadTarError: the written tar is damaged.
        """
        # A global PAX header behind which nothing survived is left out: see TarWriter.
        self._waiting.append(member)
        if member.is_global_header:
            return
        for wanted in self._waiting:
            if self._hashed is None or self.difference is not None:
                continue
            found = next(self._members, None)
            if found is None or found.raw != wanted.raw:
                what = "the tar ends" if found is None else f"{found.name!r} stands at offset {found.offset}"
                due = f"the input's member {wanted.name!r} of offset {wanted.offset} has to stand, byte for byte"
                self.difference = f"{self._url}: {what} where {due}"
        self._waiting = []

    def finish(self) -> FileMark:
        """Nothing more may follow.

        Returns:
            Size and sha256 of the whole file, of which there has to be one.

        Raises:
            BadTarError: the written tar is damaged.
        """
        assert self._hashed is not None
        if self.difference is None and (found := next(self._members, None)) is not None:
            place = f"{self._url}: {found.name!r} at offset {found.offset}"
            self.difference = f"{place} is more than what survived of the input"
        while self._hashed.read(_COPY_BYTES):
            pass
        return self._hashed.mark()


class _Hashed:
    """Reads forward and hashes what it reads."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._hash, self._size = stream, hashlib.sha256(), 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._hash.update(data)
        self._size += len(data)
        return data

    def seekable(self) -> bool:
        return False

    def mark(self) -> FileMark:
        return FileMark(self._size, self._hash.hexdigest())
