"""The members of a tar one after another, with what their headers say, and no payload in memory.

Everything that does not add up is an error with its place: Python's tarfile ends a tar without a word at a damaged
header, and a training run then sees fewer samples than there are. A tar may lack its end blocks when its last member
is complete, because img2dataset and `head -c` leave such tars and nothing is lost. What follows the end blocks is no
member, as for all readers, but it is read, so that a shortened file or a damaged gzip trailer is noticed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ecif.errors import BadTarError
from ecif.shards import gz, headers
from ecif.shards.alike import Alike, Run
from ecif.shards.headers import (
    BLOCK,
    EXTENSIONS,
    FILES,
    GLOBAL,
    SPARSE,
    SPARSE_REFUSED,
    ZEROS,
    Extensions,
    Header,
    Malformed,
)
from ecif.shards.window import Stream, Window

# Where less of the tar is in memory, looking for all headers at once takes longer than reading them one by one.
_WORTHWHILE = 256 << 10
# How often in one block: where few headers are alike, most of it would be looked through in vain.
_TRIES = 4


@dataclass(slots=True)
class Stretch:
    """Raw bytes of a tar that a scan has come to: of one member or of several, side by side.

    Not frozen, like all that is made once a member, because that would triple the cost of making one.

    Attributes:
        offset: of the first header, in the tar.
        length: of all bytes, to the end of the last padding.
    """

    offset: int
    length: int
    _scan: Scan = field(repr=False, compare=False)

    @property
    def is_global_header(self) -> bool:
        """Whether it is a global PAX header, which says something about the members that follow."""
        return False

    def held(self) -> tuple[bytes, int] | None:
        """The block in memory that holds all its raw bytes, and where in it they begin; None when none holds all."""
        window = self._scan._window
        start = self.offset - window.base
        return (window.data, start) if start >= 0 and start + self.length <= len(window.data) else None

    def pieces(self) -> Iterator[memoryview]:
        """Its raw bytes in blocks; to be read at most once, before the scan goes on.

        Raises:
            BadTarError: the file is cut short in it.
        """
        return self._scan.pieces(self)


@dataclass(slots=True)
class Entry(Stretch):
    """One tar member as a scan comes to it; its bytes are extension headers (PAX, long name), header, data, padding.

    Attributes:
        name: as tarfile gives it; bytes that are not UTF-8 appear as `\\xff`, so that a name fits in any table.
        size: of the data.
        kind: the type flag of its header, one byte; see `headers`.
        has_pax: whether one of its headers is a PAX header.
    """

    name: str
    size: int
    kind: bytes = b"0"
    has_pax: bool = False

    @property
    def is_file(self) -> bool:
        """A regular file; directories, links and global PAX headers are not."""
        return self.kind in FILES

    @property
    def is_global_header(self) -> bool:
        """Whether it is a global PAX header, which says something about the members that follow."""
        return self.kind == GLOBAL


@dataclass(frozen=True, slots=True)
class Trailing:
    """Something other than zeros that follows the end of a tar: at which offset, and whether it is a tar header."""

    offset: int
    is_header: bool


class Scan:
    """Iterates over the members of one tar and keeps where it is.

    Args:
        stream: the tar, plain or in gzip, at its start.
        url: the name that errors give it.
        header_bytes: limit of all PAX and long-name headers in front of one member.
        seek: jump over what is not asked for where the stream can, instead of reading it.

    Attributes:
        offset: where the tar ended, behind its end blocks; set at the end.
        end_blocks: how many of the two zero blocks that end a tar were there: 0, 1 or 2; set at the end.
        size: of the whole file, decompressed; set at the end.
        trailing: what follows the end of the tar, unless it is nothing but zeros; set at the end.

    Raises:
        BadTarError: as `tar.scan`.
    """

    def __init__(self, stream: Stream, url: str, header_bytes: int, *, seek: bool = False) -> None:
        self._url, self._header_bytes = url, header_bytes
        self._window = Window(stream, url, seek=seek)
        self._due = 0  # where the next header has to be
        self._last: tuple[int, str] | None = None  # offset and name of the last member in memory
        self._alike: Alike | None = None
        self._run: Iterator[tuple[str, int, int]] = iter(())  # members whose headers are read, to be given out
        self._tried, self._tries = -1, 0
        self._headers = 0  # bytes of extension and global headers since the last member
        self._ended = False
        self.offset = self.end_blocks = self.size = 0
        self.trailing: Trailing | None = None

    def __iter__(self) -> Scan:
        return self

    def __next__(self) -> Entry:
        start = self._due
        for name, size, end in self._run:
            self._due = end
            return Entry(start, end - start, self, name, size)
        if (run := self._read_run()) is not None:
            self._run = zip(run.names(), run.sizes.tolist(), run.ends.tolist(), strict=True)
            return self.__next__()
        return self._read_entry()

    def batches(self) -> Iterator[Run | Entry]:
        """The same members, and those together whose headers were read together.

        What is read of a batch has to be read before the next one is asked for.
        """
        self._run = iter(())
        while not self._ended:
            run = self._read_run()
            if run is not None:
                self._due = int(run.ends[-1])
                yield run
                continue
            try:
                entry = self._read_entry()
            except StopIteration:
                return
            yield entry

    def pieces(self, stretch: Stretch) -> Iterator[memoryview]:
        """See `Stretch.pieces`."""
        window, position, end = self._window, stretch.offset, stretch.offset + stretch.length
        if position < window.base:
            raise RuntimeError("the bytes of a tar member are there once, until the scan goes on")
        while position < end:
            here = position - window.base
            if here < len(window.data):
                piece = memoryview(window.data)[here : here + end - position]
                position += len(piece)
                yield piece
            elif not window.forward():
                raise self._cut()

    def _read_run(self) -> Run | None:
        """The members that follow, if their headers can be read at once."""
        window, start = self._window, self._due
        if self._alike is None or not window.base <= start <= window.end - _WORTHWHILE:
            return None
        if window.base != self._tried:
            self._tried, self._tries = window.base, 0
        self._tries += 1
        if self._tries > _TRIES:
            return None
        run = self._alike.run(window.data, start - window.base, window.base)
        if run is not None:
            self._headers = 0
            self._last = run.last()
        return run

    def _read_entry(self) -> Entry:
        if self._ended:
            raise StopIteration
        start = at = self._due
        window = self._window
        if self._alike is not None and window.base <= start <= window.base + len(window.data) - BLOCK:
            found = self._alike.read(window.data, start - window.base)
            if found is not None:
                self._headers = 0
                length = BLOCK + -(-found[1] // BLOCK) * BLOCK
                self._due = start + length
                self._last = (start, found[0])
                return Entry(start, length, self, *found)
        if self._last is not None and not window.skip_to(start):
            raise self._cut()
        extensions: Extensions | None = None
        has_pax = False
        while True:
            block = window.peek(at, BLOCK, start)
            if len(block) < BLOCK or block == ZEROS:
                self._end(block, at, start)
                raise StopIteration
            header = self._header(block, at)
            if header.type not in EXTENSIONS and header.type != GLOBAL:
                self._headers = 0
                break
            try:
                body = self._body(header, at, start)
                has_pax = has_pax or header.type in b"xgX"
                if header.type == GLOBAL:
                    if extensions is not None:
                        raise Malformed("a global PAX header stands between a member and its own headers")
                    headers.check_global(body)
                    break
                extensions = extensions or Extensions()
                extensions.add(header, body)
            except Malformed as error:
                raise self._bad(str(error), at, header.name) from error
            at += BLOCK + len(body)
        name, size, kind = header if extensions is None else extensions.complete(header)
        if kind == SPARSE:
            raise self._bad(SPARSE_REFUSED, at, name)
        if kind == b"0" and extensions is None and not has_pax:
            self._alike = Alike(block)
        self._due = at + BLOCK + -(-size // BLOCK) * BLOCK
        self._last = (start, name)
        return Entry(start, self._due - start, self, name, size, kind, has_pax)

    def _header(self, block: bytes, at: int) -> Header:
        if headers.is_header(block):
            try:
                return headers.parse(block)
            except Malformed as error:
                raise self._bad(str(error), at) from error
        if at == 0:
            raise self._bad(f"not a tar file{gz.other_compression(block)}", at)
        raise self._bad("no tar header where one is due: the file is damaged here; fetch it again", at)

    def _body(self, header: Header, at: int, start: int) -> bytes:
        """What follows an extension header, with its padding."""
        padded = -(-header.size // BLOCK) * BLOCK
        self._headers += BLOCK + padded
        if self._headers > self._header_bytes:
            raise Malformed(f"long-name and PAX headers of more than {self._header_bytes} bytes are refused")
        body = self._window.peek(at + BLOCK, padded, start)
        if len(body) < padded:
            raise self._cut((at, header.name))
        return body

    def _end(self, block: bytes, at: int, start: int) -> None:
        """The tar may end here: at the end of the file, or with zero blocks."""
        if at > start:
            raise self._bad("the header of a long name or PAX record is followed by no member", at)
        if len(block) < BLOCK:
            if at == 0:
                problem = "not a tar file: shorter than one header" if block else "empty file"
                raise self._bad(problem + gz.other_compression(block), at)
            if block:
                raise self._bad("the file is cut short in a header; fetch it again", at)
        else:
            second = self._window.peek(at + BLOCK, BLOCK, at)
            if second.strip(b"\0"):
                raise self._bad("a zero block is followed by data: the file is damaged here", at)
            self.end_blocks = 1 + (len(second) == BLOCK)
            at += BLOCK + len(second)
        self.offset = at
        self._read_rest(at)
        self._ended = True

    def _read_rest(self, at: int) -> None:
        window = self._window
        while self.trailing is None:
            data = window.data[at - window.base :]
            if text := data.lstrip(b"\0"):
                first = at + len(data) - len(text)
                aligned = first // BLOCK * BLOCK
                joined = headers.is_header(window.peek(aligned, BLOCK, aligned))
                self.trailing = Trailing(aligned if joined else first, joined)
            at = window.end
            if not window.forward():
                break
        while window.forward():
            pass
        self.size = window.end

    def _bad(self, problem: str, at: int, member: str | None = None) -> BadTarError:
        return BadTarError(problem, url=self._url, member=member, offset=at)

    def _cut(self, at: tuple[int, str] | None = None) -> BadTarError:
        offset, member = at or self._last or (self._due, "")
        end = self._window.end
        return self._bad(f"the file is cut short in this member, at {end} bytes; fetch it again", offset, member)
