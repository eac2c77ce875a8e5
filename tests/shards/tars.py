"""Tars for tests, built by Python's tarfile in every dialect, and read back by readers that are not ours."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from webdataset import tariterators

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@dataclass(frozen=True)
class Entry:
    """A member to put into a tar."""

    name: str
    data: bytes = b""
    type: bytes = tarfile.REGTYPE
    pax: dict[str, str] = field(default_factory=dict)


END = bytes(1024)
"""The two blocks that end a tar."""


def header(**fields: bytes) -> bytes:
    """A USTAR header block of a file a.txt, with any field overwritten by hand, and the checksum made right."""
    block = bytearray(tarfile.TarInfo("a.txt").tobuf(tarfile.USTAR_FORMAT))
    for name, value in fields.items():
        block[PLACES[name] : PLACES[name] + len(value)] = value
    return with_checksum(bytes(block))


PLACES = {
    "name": 0, "mode": 100, "uid": 108, "gid": 116, "size": 124, "mtime": 136, "type": 156, "linkname": 157,
    "magic": 257, "uname": 265, "gname": 297, "devmajor": 329, "devminor": 337, "prefix": 345,
}  # fmt: skip
"""Where the fields of a header begin."""


def with_checksum(block: bytes) -> bytes:
    """A header block whose checksum fits."""
    blank = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(blank) + block[156:]


def extension(kind: bytes, body: bytes) -> bytes:
    """An extension header with its body, by hand."""
    return header(name=b"ext\0", type=kind, size=b"%011o\0" % len(body)) + body.ljust(-(-len(body) // 512) * 512, b"\0")


def records(**fields: bytes) -> bytes:
    """PAX records; `__` in a name stands for a dot."""
    found = b""
    for name, value in fields.items():
        rest = b" %s=%s\n" % (name.replace("__", ".").encode(), value)
        length = len(rest) + 1
        while len(b"%d" % length) + len(rest) > length:
            length += 1
        found += b"%d%s" % (length, rest)
    return found


class Trickle:
    """A pipe: cannot seek and returns a few bytes at a time."""

    def __init__(self, data: bytes, most: int) -> None:
        self._inner, self._most = io.BytesIO(data), most

    def read(self, size: int, /) -> bytes:
        return self._inner.read(min(size, self._most))

    def seekable(self) -> bool:
        return False

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise AssertionError("it says that it cannot seek")


def pack(entries: Iterable[Entry], dialect: str = "ustar", pax_headers: dict[str, str] | None = None) -> bytes:
    """A tar as tarfile writes it, padded to 10,240 bytes; `pax_headers` become a global header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[dialect], pax_headers=pax_headers or {}) as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type, info.size, info.pax_headers = entry.type, len(entry.data), entry.pax
            info.mtime, info.uname = 1_700_000_000, "someone"
            if entry.type == tarfile.SYMTYPE:
                info.linkname = "elsewhere"
            tar.addfile(info, io.BytesIO(entry.data))
    return buffer.getvalue()


def sample(key: str, caption: str = "a dog", image: bytes = b"image", **more: bytes) -> list[Entry]:
    """The members of an ordinary sample."""
    extra = [Entry(f"{key}.{extension}", data) for extension, data in more.items()]
    return [Entry(f"{key}.jpg", image), Entry(f"{key}.txt", caption.encode()), *extra]


def tarfile_members(data: bytes) -> list[tuple[str, bool, bytes, bytes]]:
    """(name, is a regular file, payload, raw bytes from its first header to the next member) by tarfile."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        infos = tar.getmembers()
        found = []
        for info in infos:
            payload = tar.extractfile(info).read() if info.isreg() else b""  # type: ignore[union-attr]
            has_data = info.isreg()
            end = info.offset_data + (-(-info.size // 512) * 512 if has_data else 0)
            found.append((info.name, info.isreg(), payload, data[info.offset : end]))
        return found


def webdataset_samples(data: bytes) -> list[dict[str, Any]]:
    """The samples of a tar by webdataset itself."""
    files = ({"__url__": "x", **file} for file in tariterators.tar_file_iterator(_as_any(io.BytesIO(data))))
    return [
        {name: value for name, value in found.items() if name != "__url__"}
        for found in tariterators.group_by_keys(files)
    ]


def _as_any(value: object) -> Any:
    return value  # webdataset's annotation asks for a TarFile but it opens a stream


SIZES = st.sampled_from([0, 1, 2, 511, 512, 513, 1023, 1024, 1025, 3000])
_LETTERS = st.sampled_from("abcXYZ0189_- '\"#%+,:;=@[]{}~üß日本é🙂\\")
_SHORT = st.text(_LETTERS, min_size=1, max_size=12)
_EXTENSION = st.sampled_from(["jpg", "txt", "json", "cls", "seg.png", "tar.gz", "npy", "日本"])
_EXTENSIONS = st.lists(_EXTENSION, min_size=1, max_size=4, unique=True)


@st.composite
def keys(draw: st.DrawFn, dialect: str) -> str:
    """A key: short or long, with or without directories, ASCII or not."""
    key = draw(_SHORT)
    if draw(st.booleans()):
        folders = draw(st.lists(_SHORT, min_size=1, max_size=3))
        key = "/".join([*folders, key])
    if dialect != "ustar" and draw(st.integers(0, 3)) == 0:
        key = key + "long" * draw(st.integers(20, 80))
    return key


@st.composite
def entries(draw: st.DrawFn, dialect: str, max_samples: int = 6) -> list[Entry]:
    """Samples with distinct keys, with members of no sample at their start, between and inside them."""
    found: list[Entry] = []
    for key in draw(st.lists(keys(dialect), max_size=max_samples, unique=True)):
        for extension in draw(_EXTENSIONS):
            if draw(st.integers(0, 4)) == 0:
                found.append(draw(strangers()))
            found.append(Entry(f"{key}.{extension}", draw(payloads()), pax=draw(_pax(dialect))))
    if draw(st.booleans()):
        found.append(draw(strangers()))
    return found


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """Bytes of a size around the block boundaries."""
    size, seed = draw(SIZES), draw(st.integers(0, 255))
    return bytes((seed + 7 * i) % 256 for i in range(size))


@st.composite
def strangers(draw: st.DrawFn) -> Entry:
    """A member that belongs to no sample."""
    return draw(
        st.sampled_from(
            [
                Entry("folder", type=tarfile.DIRTYPE),
                Entry("link.jpg", type=tarfile.SYMTYPE),
                Entry("pipe.txt", type=tarfile.FIFOTYPE),
                Entry("__meta__", b"about this shard"),
                Entry("__dir__/x.jpg", b"x" * 600),
                Entry("README", b"no dot"),
                Entry("folder/.hidden/README", b""),
            ]
        )
    )


def _pax(dialect: str) -> st.SearchStrategy[dict[str, str]]:
    if dialect != "pax":
        return st.just({})
    fields = st.sampled_from(["comment", "mtime", "SCHILY.xattr.user.x"])
    return st.one_of(st.just({}), st.dictionaries(fields, st.sampled_from(["1", "1700000000.25", "12345"])))


class Tar(bytes):
    """A tar that a failing test prints as the names in it."""

    def __repr__(self) -> str:
        try:
            names: object = [member[0] for member in tarfile_members(self)]
        except Exception:
            names = self[:2048]
        return f"<tar of {len(self)} bytes: {names}>"


@st.composite
def tars(draw: st.DrawFn, dialects: Sequence[str] = tuple(FORMATS), max_samples: int = 6) -> Tar:
    """A whole tar in one of the dialects, at times with a global PAX header."""
    dialect = draw(st.sampled_from(list(dialects)))
    members = draw(entries(dialect, max_samples))
    headers = {"comment": "made for a test"} if dialect == "pax" and members and draw(st.booleans()) else None
    return Tar(pack(members, dialect, headers))
