"""A scan holds no payload: members of any size stream, are skipped or are read in part, and a cut is noticed."""

from __future__ import annotations

import io
import itertools
import tarfile
import tracemalloc
from collections.abc import Callable

import pytest

from ecif.errors import BadTarError
from ecif.shards.samples import Place, track
from ecif.shards.tar import Limits, TarWriter, read_members, scan
from tests.shards.tars import END, Entry, Trickle, header, pack, sample, with_checksum


class Endless:
    """A tar of n members of so many MiB that is nowhere in memory."""

    def __init__(self, n: int, size: int = 1) -> None:
        block, payload = header(size=b"%011o\0" % (size << 20)), bytes(1 << 20)
        self._pieces = itertools.chain(*itertools.repeat([block, *[payload] * size], n), [END])
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        self._rest = self._rest or next(self._pieces, b"")
        part, self._rest = self._rest[:size], self._rest[size:]
        return part

    def seekable(self) -> bool:
        return False

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise AssertionError("it says that it cannot seek")


class Nowhere:
    """Takes what is written and keeps its size, and how often something came."""

    size = writes = 0

    def write(self, data: bytes | memoryview, /) -> None:
        self.size += len(data)
        self.writes += 1


def peak_of(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_of_reading_members_is_one_member() -> None:
    assert peak_of(lambda: [None for _ in read_members(Endless(100), "x.tar")]) < 12 << 20


def test_memory_of_copying_is_one_block_whatever_the_size_of_a_member() -> None:
    sink = Nowhere()

    def copy() -> None:
        writer = TarWriter(sink)
        for entry, _ in track(scan(Endless(2, 100), "x.tar"), Limits(member_bytes=1)):
            writer.add(entry)
        writer.end()

    assert peak_of(copy) < 12 << 20
    assert sink.size > 200 << 20


def test_members_side_by_side_are_passed_on_together() -> None:
    data = pack([entry for n in range(100) for entry in sample(str(n))])
    sink = Nowhere()
    writer = TarWriter(sink)
    for entry in scan(io.BytesIO(data), "x.tar"):
        writer.add(entry)
    assert writer.end() == sink.size == len(data)
    assert sink.writes == 2  # the members, the end


def test_members_that_are_not_read_are_skipped() -> None:
    data = pack([*sample("a", image=b"x" * 3000), *sample("b")])
    for step in (100, 1 << 20):
        sink = io.BytesIO()
        writer = TarWriter(sink)
        for entry, place in track(scan(Trickle(data, step), "x.tar")):
            if place is not None and place.key == "b":
                writer.add(entry)
        writer.end()
        assert sink.getvalue() == pack(sample("b"))


def test_a_member_that_is_read_in_part_is_left_behind() -> None:
    data = pack([*sample("a", image=b"x" * 3000), *sample("b")])
    found = []
    for entry in scan(Trickle(data, 1000), "x.tar"):
        next(entry.pieces())
        found.append(entry.name)
    assert found == ["a.jpg", "a.txt", "b.jpg", "b.txt"]


def test_the_bytes_of_a_member_are_there_until_the_scan_goes_on() -> None:
    entries = scan(Trickle(pack(sample("a", image=b"x" * 3000)), 700), "x.tar")
    first = next(entries)
    assert len(b"".join(first.pieces())) == first.length == 512 + 3072
    with pytest.raises(RuntimeError, match="once"):
        next(first.pieces())
    second = next(entries)
    with pytest.raises(RuntimeError, match="once"):
        next(first.pieces())
    assert len(b"".join(second.pieces())) == second.length


def test_a_cut_is_noticed_while_a_member_is_copied() -> None:
    data = pack([*sample("a"), *sample("b", image=b"x" * 3000)])
    writer = TarWriter(Nowhere())

    def copy() -> None:
        for entry in scan(io.BytesIO(data[:4000]), "x.tar"):
            writer.add(entry)

    with pytest.raises(BadTarError, match="cut short in this member, at 4000 bytes") as caught:
        copy()
    assert (caught.value.member, caught.value.offset) == ("b.jpg", 2048)


def test_a_header_like_the_one_before_is_read_as_it_is_read_alone() -> None:
    """Headers that differ little from the one before take a shorter way; every byte of one is changed to try it."""

    def outcome(data: bytes) -> list[object]:
        found: list[object] = []
        try:
            for entry in scan(io.BytesIO(data), "x.tar"):
                found.append((entry.name, entry.length, entry.size, entry.kind))
        except BadTarError as error:
            found.append(error.problem.partition(", at")[0])  # at how many bytes the file is cut differs
        return found

    before, ended = header(), bytes(2048)
    for at in (at for at in range(512) if not 148 <= at < 156):
        for value in b"\0 178-\xff":
            block = with_checksum(before[:at] + bytes([value]) + before[at + 1 :])
            assert outcome(before + block + ended)[1:] == outcome(block + ended)
    for checksum in (b"%06o\0 ", b"%07o\0", b" %06o\0", b"%6o\0 ", b"%06o \0", b"0%06o "):
        blank = before[:148] + b" " * 8 + before[156:]
        block = before[:148] + (checksum % sum(blank))[:8].ljust(8, b"\0") + before[156:]
        assert outcome(before + block + ended)[1:] == outcome(block + ended) == [("a.txt", 512, 0, b"0")]
        assert outcome(before + block[:150] + b"7" + block[151:] + ended)[1:] == [
            "no tar header where one is due: the file is damaged here; fetch it again"
        ]


def test_places_are_those_of_the_samples() -> None:
    folder = Entry("folder", type=tarfile.DIRTYPE)
    members = [folder, Entry("a.jpg"), folder, Entry("a.Seg.txt"), Entry("README"), Entry("b.txt"), Entry("a.jpg")]
    found = [place for _, place in track(scan(io.BytesIO(pack(members)), "x.tar"))]
    a, b, again = Place(0, "a", "jpg", True), Place(1, "b", "txt", True), Place(2, "a", "jpg", True)
    assert found == [None, a, None, Place(0, "a", "seg.txt", False), None, b, again]


def test_places_have_the_limit_of_samples() -> None:
    data = pack([Entry(f"a.{i}") for i in range(5)])
    assert len(list(track(scan(io.BytesIO(data), "x.tar"), Limits(members_per_sample=5)))) == 5
    with pytest.raises(BadTarError, match=r"x\.tar.*more than 4 members"):
        list(track(scan(io.BytesIO(data), "x.tar"), Limits(members_per_sample=4), "x.tar"))
