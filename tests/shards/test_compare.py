"""A written tar is the expected members byte for byte, or the first difference is named with its place."""

from __future__ import annotations

import hashlib
import io
import itertools
import tracemalloc

import pytest

from ecif.shards.compare import Comparison
from ecif.shards.tar import TarWriter, scan
from tests.shards.tars import END, Trickle, extension, header, pack, records, sample

DATA = pack([*sample("a", image=b"x" * 2000), *sample("b", image=b"y" * 700), *sample("c")], "pax", {"comment": "x"})
NAMES = ["a.jpg", "a.txt", "b.jpg", "b.txt", "c.jpg", "c.txt"]


def written(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    writer = TarWriter(buffer)
    for entry in scan(io.BytesIO(DATA), "in.tar"):
        if entry.is_global_header or entry.name in names:
            writer.add(entry)
    writer.end()
    return buffer.getvalue()


def compared(output: bytes, names: list[str], step: int = 1 << 20) -> Comparison:
    comparison = Comparison(Trickle(output, step), "out.tar")
    for entry in scan(Trickle(DATA, 700), "in.tar"):
        if entry.is_global_header or entry.name in names:
            comparison.expect(entry)
    mark = comparison.finish()
    assert (mark.size, mark.sha256) == (len(output), hashlib.sha256(output).hexdigest())
    return comparison


@pytest.mark.parametrize("names", [NAMES, NAMES[:2], NAMES[2:], []])
@pytest.mark.parametrize("step", [1, 512, 777, 1 << 20])
def test_what_the_writer_writes_is_what_is_expected(names: list[str], step: int) -> None:
    assert compared(written(names), names, step).difference is None


def test_a_member_too_many_too_few_or_another_one_is_named() -> None:
    missing = compared(written(["a.jpg", "b.txt"]), ["a.jpg", "a.txt", "b.txt"]).difference
    assert missing is not None
    assert missing.startswith("out.tar: 'b.txt' at offset 3584 where the input's member 'a.txt' of offset 3584")
    more = compared(written(["a.jpg", "a.txt"]), ["a.jpg"]).difference
    assert more == "out.tar: 'a.txt' at offset 3584 is more than what survived of the input"
    cut = compared(written(NAMES)[:3584], NAMES).difference
    assert cut is not None
    assert cut.startswith("out.tar: the tar ends at 3584 bytes where the input's member 'a.txt' of offset 3584")


@pytest.mark.parametrize("step", [1, 1000, 1 << 20])
def test_every_changed_byte_is_found_at_its_place(step: int) -> None:
    good = written(NAMES)
    for at in (*range(0, len(good) - 1, 1499), len(good) - 1):
        difference = compared(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], NAMES, step).difference
        assert difference is not None
        ends = good.rstrip(b"\0")
        if at < len(ends):
            assert f"other bytes stand at offset {at} where" in difference or "' at offset" in difference


def test_the_end_has_to_be_the_writers() -> None:
    good = written(NAMES)
    body = len(good.rstrip(b"\0")) // 512 * 512 + 512
    assert compared(good[:body], NAMES).difference == f"out.tar: the tar ends at {body} bytes, within its end blocks"
    assert compared(good[:-512], NAMES).difference is not None
    longer = compared(good + bytes(10), NAMES).difference
    assert longer == f"out.tar: more follows the end of the tar, at offset {len(good)}"


def test_a_global_header_waits_for_the_next_member() -> None:
    first, second = pack(sample("a")).rstrip(b"\0"), extension(b"g", records(comment=b"x"))
    tar = first + bytes(-len(first) % 512) + second + END
    buffer = io.BytesIO()
    writer = TarWriter(buffer)
    comparison = Comparison(buffer, "out.tar")
    for entry in scan(io.BytesIO(tar), "in.tar"):
        writer.add(entry)
    writer.end()
    buffer.seek(0)
    for entry in scan(io.BytesIO(tar), "in.tar"):
        comparison.expect(entry)
    comparison.finish()
    assert comparison.difference is None
    assert buffer.getvalue() == pack(sample("a"))


def test_without_a_tar_nothing_is_compared() -> None:
    comparison = Comparison(None, "out.tar")
    for entry in scan(io.BytesIO(DATA), "in.tar"):
        comparison.expect(entry)
    assert comparison.difference is None


def test_memory_is_a_few_blocks_whatever_the_size_of_a_member() -> None:
    size = 100 << 20
    start = header(size=b"%011o\0" % size)

    class Zeros:
        """A tar with one member of 100 MiB that is nowhere in memory."""

        def __init__(self) -> None:
            self._parts = itertools.chain(
                [start], itertools.repeat(bytes(1 << 20), 100), [bytes(-(len(start) + size) % 10240)]
            )

        def read(self, size: int, /) -> bytes:
            return next(self._parts, b"")

        def seekable(self) -> bool:
            return False

        def seek(self, offset: int, whence: int = 0, /) -> int:
            raise AssertionError

    tracemalloc.start()
    try:
        comparison = Comparison(Zeros(), "out.tar")
        for entry in scan(Zeros(), "in.tar"):
            comparison.expect(entry)
        mark = comparison.finish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert comparison.difference is None
    assert mark.size > size
    assert peak < 16 << 20


def test_an_odd_header_in_place_of_a_member_is_described_all_the_same() -> None:
    good = written(NAMES)
    odd = header(size=b"xxxxxxxxxxx\0")
    difference = compared(odd + good[512:], NAMES).difference
    assert difference is not None
    assert "other bytes stand at offset 0" in difference
