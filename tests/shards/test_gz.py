"""Gzip around a tar is taken off whatever the file is called; damage to it is an error with its place."""

from __future__ import annotations

import gzip
import io
import random
import tracemalloc
import zlib

import pytest

from ecif.errors import BadTarError
from ecif.shards.tar import Member, count_samples, read_members, scan
from tests.shards.tars import END, Entry, Trickle, header, pack, sample

TAR = pack([*sample("a", image=random.Random(0).randbytes(3000)), *sample("b")])
PACKED = gzip.compress(TAR, mtime=0)


def read(data: bytes, step: int = 1 << 20) -> list[Member]:
    return list(read_members(Trickle(data, step), "x.tar"))


@pytest.mark.parametrize("step", [1, 100, 1 << 20])
def test_a_compressed_tar_is_read_as_what_is_in_it(step: int) -> None:
    assert read(PACKED, step) == read(TAR)
    assert count_samples(io.BytesIO(PACKED), "x.tar") == 2
    entries = scan(io.BytesIO(PACKED), "x.tar")
    assert [entry.offset for entry in entries] == [member.offset for member in read(TAR)]
    assert entries.size == len(TAR)


def test_several_streams_one_after_another_and_zeros_behind_them() -> None:
    parts = [gzip.compress(TAR[a : a + 1000]) for a in range(0, len(TAR), 1000)]
    assert read(b"".join(parts)) == read(TAR)
    assert read(b"".join([parts[0], gzip.compress(b""), *parts[1:], bytes(1000)])) == read(TAR)


def test_a_plain_tar_whose_first_name_begins_like_gzip() -> None:
    assert read(header(name=b"\x1f\x8b\x08.txt\0") + END)[0].name == "\x1f\\x8b\x08.txt"


def test_every_cut_is_noticed() -> None:
    for cut in range(1, len(PACKED)):
        with pytest.raises(BadTarError) as caught:
            read(PACKED[:cut])
        assert caught.value.offset is not None
        if cut > 1:
            assert "cut short" in caught.value.problem
            assert caught.value.offset == cut


def test_a_wrong_checksum_or_length_is_noticed_behind_the_end_of_the_tar() -> None:
    for place in (-8, -1):
        data = bytearray(PACKED)
        data[place] ^= 1
        with pytest.raises(BadTarError, match="gzip data are damaged"):
            read(bytes(data))
        with pytest.raises(BadTarError, match="gzip data are damaged"):
            count_samples(io.BytesIO(data), "x.tar")


def test_what_follows_the_gzip_data_is_refused_with_its_place() -> None:
    for tail in (b"x", b"garbage", TAR, bytes(5) + b"x"):
        with pytest.raises(BadTarError, match="no gzip data follows") as caught:
            read(PACKED + tail)
        assert caught.value.offset == len(PACKED) + (5 if tail[0] == 0 and len(tail) == 6 else 0)


def test_damage_names_a_place_near_it() -> None:
    data = bytearray(gzip.compress(pack([Entry("a.bin", b",".join(b"%d" % (i * i) for i in range(300_000)))])))
    middle = len(data) // 2
    data[middle : middle + 50] = b"\xff" * 50
    with pytest.raises(BadTarError, match="gzip data are damaged here") as caught:
        read(bytes(data))
    assert caught.value.offset is not None
    assert middle - (1 << 18) < caught.value.offset < middle + (1 << 18)


def test_no_tar_inside_gzip() -> None:
    with pytest.raises(BadTarError, match="not a tar file"):
        read(gzip.compress(b"hello" * 200))
    with pytest.raises(BadTarError, match="empty file"):
        read(gzip.compress(b""))
    with pytest.raises(BadTarError, match="not a tar file"):
        read(gzip.compress(PACKED * 5))


@pytest.mark.parametrize(
    ("magic", "command"),
    [
        (b"\x28\xb5\x2f\xfd", "zstd -d"),
        (b"BZh9", "bunzip2"),
        (b"\xfd7zXZ\0", "unxz"),
        (b"\x04\x22\x4d\x18", "lz4 -d"),
        (b"\x1f\x9d", "uncompress"),
        (b"PK\x03\x04", "unzip"),
    ],
)
@pytest.mark.parametrize("size", [40, 4000])
def test_other_compressions_are_refused_with_the_way_out(magic: bytes, command: str, size: int) -> None:
    with pytest.raises(BadTarError, match=command) as caught:
        read(magic + bytes(range(1, 41)) * (size // 40))
    assert caught.value.offset == 0


def test_memory_is_bounded_whatever_the_data_expand_to() -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = deflate.compress(header(size=b"%011o\0" % (100 << 20)))
    for _ in range(100):
        packed += deflate.compress(bytes(1 << 20))
    packed += deflate.compress(END) + deflate.flush()
    assert len(packed) < 1 << 20
    tracemalloc.start()
    try:
        entries = scan(io.BytesIO(packed), "x.tar")
        sizes = [sum(len(piece) for piece in entry.pieces()) for entry in entries]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sizes == [512 + (100 << 20)]
    assert peak < 20 << 20
