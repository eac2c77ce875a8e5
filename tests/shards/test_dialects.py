"""Every dialect of tar that is met in the wild is understood as tarfile understands it, or refused with its place."""

from __future__ import annotations

import io
import os
import re
import tarfile
from pathlib import Path

import pytest
from webdataset import tariterators

from ecif.errors import BadTarError
from ecif.shards import names
from ecif.shards.samples import track
from ecif.shards.tar import Limits, TarWriter, count_samples, read_members, scan
from tests.shards import invariants
from tests.shards.tars import END, Entry, extension, header, pack, records, sample

SIX = b"00000000006\0"
BODY = b"pixels".ljust(512, b"\0")
LONG = "folder/" * 20 + "0001.jpg"


def base256(number: int) -> bytes:
    return b"\x80" + number.to_bytes(11, "big")


READ = {
    "v7": (header(magic=bytes(8), type=b"\0", size=SIX) + BODY + END, [("a.txt", True, b"pixels")]),
    "v7 directory": (header(magic=bytes(8), type=b"\0", name=b"dir/\0") + END, [("dir", False, b"")]),
    "ustar": (pack([Entry("k.jpg", b"pixels")], "ustar"), [("k.jpg", True, b"pixels")]),
    "ustar prefix": (pack([Entry(LONG, b"pixels")], "ustar"), [(LONG, True, b"pixels")]),
    "contiguous file": (header(type=b"7", size=SIX) + BODY + END, [("a.txt", True, b"pixels")]),
    "old gnu magic": (header(magic=b"ustar  \0", size=SIX) + BODY + END, [("a.txt", True, b"pixels")]),
    "gnu long name": (pack([Entry(LONG * 2, b"pixels")], "gnu"), [(LONG * 2, True, b"pixels")]),
    "gnu long link": (
        extension(b"K", b"target" * 30 + b"\0") + header(type=b"2") + header(size=SIX) + BODY + END,
        [("a.txt", False, b""), ("a.txt", True, b"pixels")],
    ),
    "gnu long name and long link": (
        extension(b"K", b"t" * 200 + b"\0") + extension(b"L", b"n" * 200 + b"\0") + header(type=b"2") + END,
        [("n" * 200, False, b"")],
    ),
    "gnu volume label": (header(type=b"V", name=b"label\0") + END, [("label", False, b"")]),
    "gnu list of a directory": (header(type=b"D", size=SIX) + BODY + END, [("a.txt", False, b"pixels")]),
    "size in base 256": (header(size=base256(6)) + BODY + END, [("a.txt", True, b"pixels")]),
    "time before 1970 in base 256": (
        header(mtime=b"\xff" * 12, size=SIX) + BODY + END,
        [("a.txt", True, b"pixels")],
    ),
    "pax name": (pack([Entry("日本" * 50 + ".jpg", b"pixels")], "pax"), [("日本" * 50 + ".jpg", True, b"pixels")]),
    "pax size": (
        extension(b"x", records(size=b"6")) + header(size=bytes(12)) + BODY + END,
        [("a.txt", True, b"pixels")],
    ),
    "pax name that is not UTF-8": (
        extension(b"x", records(hdrcharset=b"BINARY", path=b"\xff.jpg")) + header(size=SIX) + BODY + END,
        [("\\xff.jpg", True, b"pixels")],
    ),
    "pax name without characters": (
        extension(b"x", records(path=b"")) + header(size=SIX) + BODY + END,
        [("", True, b"pixels")],
    ),
    "pax for all members": (
        pack([Entry("k.jpg", b"pixels")], "pax", {"comment": "x"}),
        [("k.jpg", True, b"pixels")],
    ),
    "solaris": (
        extension(b"X", records(path=b"s.jpg")) + header(size=SIX) + BODY + END,
        [("s.jpg", True, b"pixels")],
    ),
    "of several long names the first": (
        extension(b"L", b"one.jpg\0") + extension(b"x", records(path=b"two.jpg")) + header(size=SIX) + BODY + END,
        [("one.jpg", True, b"pixels")],
    ),
    "hard link with the size of its file": (
        header(type=b"1", size=SIX) + header(size=SIX) + BODY + END,
        [("a.txt", False, b""), ("a.txt", True, b"pixels")],
    ),
    "symbolic link, devices, fifo": (
        b"".join(header(type=bytes([kind])) for kind in b"2346") + END,
        [("a.txt", False, b"")] * 4,
    ),
    "directory": (pack([Entry("dir", type=tarfile.DIRTYPE)]), [("dir", False, b"")]),
    "empty members": (
        pack([Entry("k.jpg"), Entry("k.txt")]),
        [("k.jpg", True, b""), ("k.txt", True, b"")],
    ),
    "no members": (END, []),
}


@pytest.mark.parametrize("name", READ)
def test_read_as_tarfile_reads_it_and_written_as_it_was(name: str) -> None:
    data, expected = READ[name]
    members = [member for member in read_members(io.BytesIO(data), "x.tar") if not member.is_global_header]
    assert [(m.name, m.is_file, bytes(m.data)) for m in members] == expected
    assert invariants.check_tar(data, 512) == "read"
    copy = io.BytesIO()
    writer = TarWriter(copy)
    for entry in scan(io.BytesIO(data), "x.tar"):
        writer.add(entry)
    writer.end()
    assert copy.getvalue().rstrip(b"\0") == data.rstrip(b"\0")


@pytest.mark.parametrize("kind", ["1", "2", "3", "4", "5", "6", "D", "V"])
def test_what_is_no_file_belongs_to_no_sample_whatever_it_is_called(kind: str) -> None:
    data = header(name=b"k.jpg\0") + header(name=b"k.png\0", type=kind.encode()) + header(name=b"k.txt\0") + END
    placed = [(entry.name, place and place.index) for entry, place in track(scan(io.BytesIO(data), "x.tar"))]
    assert placed == [("k.jpg", 0), ("k.png", None), ("k.txt", 0)]


REFUSED = {
    "gnu sparse file": (header(type=b"S") + END, "sparse", 0),
    "gnu sparse file with a long name": (extension(b"L", b"n\0") + header(type=b"S") + END, "sparse", 1024),
    "sparse 0.0": (
        header() + extension(b"x", records(GNU__sparse__size=b"9", GNU__sparse__numblocks=b"1")) + header() + END,
        "sparse",
        512,
    ),
    "sparse 0.1": (extension(b"x", records(GNU__sparse__map=b"0,1")) + header() + END, "sparse", 0),
    "sparse 1.0": (
        extension(b"x", records(GNU__sparse__major=b"1", GNU__sparse__minor=b"0")) + header() + END,
        "sparse",
        0,
    ),
    "solaris holes": (extension(b"X", records(SUN__holesdata=b" 0 9")) + header() + END, "sparse", 0),
    "star holes": (extension(b"x", records(SCHILY__realsize=b"9")) + header() + END, "sparse", 0),
    "pax name for all": (extension(b"g", records(path=b"a")) + header() + END, "global PAX", 0),
    "pax size for all": (extension(b"g", records(size=b"9")) + header() + END, "global PAX", 0),
    "pax size without digits": (extension(b"x", records(size=b"")) + header() + END, "not a number", 0),
    "time that is no number": (header(mtime=b"yesterday") + END, "other readers would end here", 0),
    "owner that is no number": (header() + header(uid=b"root") + END, "other readers would end here", 512),
    "hard link followed by data": (header(type=b"1", size=SIX) + BODY + END, "no tar header", 512),
    "member of a second volume": (header(type=b"M", size=SIX) + END[:256], "cut short", 0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_place(name: str) -> None:
    data, problem, offset = REFUSED[name]
    with pytest.raises(BadTarError, match=problem) as caught:
        list(read_members(io.BytesIO(data), "x.tar"))
    assert (caught.value.url, caught.value.offset) == ("x.tar", offset)
    assert invariants.check_tar(data, 512).startswith("refused")


ODD = [
    ("000.jpg", "000", "jpg"), ("./000.jpg", "./000", "jpg"), ("/abs/000.jpg", "/abs/000", "jpg"),
    ("../../000.jpg", "../../000", "jpg"), ("a b.txt", "a b", "txt"), ("a.seg.PNG", "a", "seg.png"),
    ("x.y/000.jpg", "x.y/000", "jpg"), ("no dot", None, None), (".hidden", None, None), (".hidden.jpg", None, None),
    ("..", None, None), ("a.", "a", ""), ("日本.jpg", "日本", "jpg"), ("🙂.txt", "🙂", "txt"),
    ("\t\x1b[1m.txt", "\t\x1b[1m", "txt"), ("a\nb.txt", "a\nb", "txt"), ("a.b\n", "a", "b\n"), ("", None, None),
    ("n" * 251 + ".jpg", "n" * 251, "jpg"),
    ("__meta__", None, None), ("__meta__/a.jpg", None, None), ("d/__meta__.json", "d/__meta__", "json"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "key", "extension"), ODD)
def test_odd_names_are_split_as_webdataset_splits_them(name: str, key: str | None, extension: str | None) -> None:
    data = pack([Entry(name, b"x")], "pax" if len(name) > 99 else "gnu")
    (entry, place), *rest = track(scan(io.BytesIO(data), "x.tar"))
    assert (entry.name, rest) == (name, [])
    assert (place and place.key, place and place.extension) == (key, extension)
    assert names.split(name) == (None if key is None else (key, extension))
    if not name.startswith("__"):
        base, suffix = tariterators.base_plus_ext(name)
        assert (base, suffix and suffix.lower()) == (key, extension)
    assert invariants.check_tar(data, 512) == "read"


def test_names_of_255_bytes_and_more_in_each_dialect_that_has_them() -> None:
    name = "d" * 150 + "/" + "n" * 90 + ".jpg"
    for dialect, length in (("ustar", len(name)), ("gnu", 255), ("pax", 255), ("gnu", 5000), ("pax", 5000)):
        wanted = name.rjust(length, "x") if dialect != "ustar" else name
        assert [m.name for m in read_members(io.BytesIO(pack([Entry(wanted)], dialect)), "x.tar")] == [wanted]


@pytest.mark.parametrize("way", ["base 256", "pax"])
def test_members_above_eight_gib_are_streamed_over(way: str, tmp_path: Path) -> None:
    """The file is a hole on the disk: nothing is written, and only the headers are read."""
    size = (9 << 30) + 5
    start = header(size=base256(size))
    if way == "pax":
        start = extension(b"x", records(size=b"%d" % size)) + header(size=bytes(12))
    path = tmp_path / "huge.tar"
    with path.open("wb") as file:
        file.write(start)
        file.seek(-(-size // 512) * 512, os.SEEK_CUR)
        file.write(header(name=b"b.txt\0") + END)
    with path.open("rb") as file:
        entry = next(scan(file, "x.tar"))
        assert (entry.size, entry.length) == (size, len(start) + -(-size // 512) * 512)
        assert sum(len(piece) for piece, _ in zip(entry.pieces(), range(3), strict=False)) > 512
    with path.open("rb") as file:
        assert count_samples(file, "x.tar") == 2
    with path.open("rb") as file, pytest.raises(BadTarError, match="more than the limit") as caught:
        list(read_members(file, "x.tar"))
    assert caught.value.member == "a.txt"
    os.truncate(path, path.stat().st_size - 2048)
    with path.open("rb") as file, pytest.raises(BadTarError, match="cut short in this member"):
        count_samples(file, "x.tar")


TWO = pack([*sample("a"), *sample("b")])
BODIES = TWO.rstrip(b"\0") + bytes(-len(TWO.rstrip(b"\0")) % 512)


@pytest.mark.parametrize(
    ("data", "end_blocks", "trailing"),
    [
        (TWO, 2, None),
        (BODIES, 0, None),
        (BODIES + bytes(512), 1, None),
        (BODIES + bytes(700), 1, None),
        (BODIES + END, 2, None),
        (TWO + bytes(5_000_000), 2, None),
        (TWO + b"garbage", 2, (len(TWO), False)),
        (TWO + bytes(700) + b"garbage" * 100, 2, (len(TWO) + 700, False)),
        (TWO + TWO, 2, (len(TWO), True)),
        (BODIES + END + TWO, 2, (len(BODIES) + 1024, True)),
        (TWO + bytes(6 << 20) + TWO, 2, (len(TWO) + (6 << 20), True)),
    ],
)
def test_what_stands_at_the_end(data: bytes, end_blocks: int, trailing: tuple[int, bool] | None) -> None:
    entries = scan(io.BytesIO(data), "x.tar")
    assert [entry.name for entry in entries] == ["a.jpg", "a.txt", "b.jpg", "b.txt"]
    assert (entries.end_blocks, entries.size) == (end_blocks, len(data))
    found = entries.trailing
    assert (found and (found.offset, found.is_header)) == trailing
    assert next(entries, None) is None
    assert invariants.check_tar(data, 10_240) == "read"


@pytest.mark.parametrize("data", [b"", b"\0", bytes(511)])
def test_files_without_a_header(data: bytes) -> None:
    with pytest.raises(BadTarError, match="empty file" if not data else "shorter than one header"):
        list(scan(io.BytesIO(data), "x.tar"))


def test_headers_in_front_of_a_member_are_limited_in_all() -> None:
    many = extension(b"g", records(comment=b"x" * 400)) * 20
    limits = Limits(header_bytes=15 * 1024)
    with pytest.raises(BadTarError, match="15360 bytes are refused") as caught:
        list(scan(io.BytesIO(many + header() + END), "x.tar", limits))
    assert caught.value.offset == 15 * 1024
    spread = (extension(b"g", records(comment=b"x" * 400)) + header()) * 20
    assert len(list(scan(io.BytesIO(spread + END), "x.tar", limits))) == 40


def test_nothing_can_be_extracted_because_nothing_knows_how() -> None:
    """Only the demonstration imports tarfile, to write its shards; no member's name ever becomes a path."""
    root = Path(names.__file__).parents[1]
    users = [path for path in root.rglob("*.py") if re.search(r"^\s*(import|from) tarfile", path.read_text(), re.M)]
    assert [path.relative_to(root).as_posix() for path in users] == ["demo/packing.py"]
