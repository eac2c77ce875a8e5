"""The tar reader keeps every byte, understands what tarfile understands, and never ends early in silence."""

from __future__ import annotations

import io
import random
import tarfile
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecif.errors import BadTarError
from ecif.shards.headers import is_header
from ecif.shards.samples import Sample, group
from ecif.shards.tar import Limits, Member, TarWriter, count_samples, read_members
from tests.shards.tars import END, Entry, Trickle, header, pack, sample, tarfile_members, tars, webdataset_samples

PROPERTY = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def read(data: bytes, limits: Limits = Limits()) -> list[Member]:
    return list(read_members(io.BytesIO(data), "x.tar", limits))


def write(raws: list[bytes]) -> bytes:
    buffer = io.BytesIO()
    writer = TarWriter(buffer)
    for raw in raws:
        writer.write(raw)
    assert writer.end() == len(buffer.getvalue())
    return buffer.getvalue()


@PROPERTY
@given(tars())
def test_members_are_those_of_tarfile_and_their_raw_bytes_are_the_file(data: bytes) -> None:
    members = read(data)
    expected = tarfile_members(data)
    listed = [member for member in members if member.raw[156:157] != b"g"]
    assert [(m.name, m.is_file, bytes(m.data), m.raw) for m in listed] == expected
    joined = b"".join(member.raw for member in members)
    assert data.startswith(joined)
    assert data[len(joined) :].strip(b"\0") == b""
    assert [m.offset for m in members] == [sum(len(m.raw) for m in members[:i]) for i in range(len(members))]


@PROPERTY
@given(tars(), st.randoms(use_true_random=False))
def test_survivors_are_the_same_bytes_in_the_same_order(data: bytes, choose: random.Random) -> None:
    """Drop some samples: what other readers find is what they found before, without those."""
    kept: list[bytes] = []
    dropped_names: set[str] = set()
    dropped_keys: set[str] = set()
    for item in group(read_members(io.BytesIO(data), "x.tar")):
        if isinstance(item, Sample) and choose.random() < 0.5:
            kept += [member.raw for member in item.between]
            dropped_names |= {member.name for member in item.members}
            dropped_keys.add(item.key)
        elif isinstance(item, Sample):
            kept += [member.raw for member in item.in_order]
        else:
            kept.append(item.raw)
    output = write(kept)
    assert tarfile_members(output) == [member for member in tarfile_members(data) if member[0] not in dropped_names]
    assert webdataset_samples(output) == [s for s in webdataset_samples(data) if s["__key__"] not in dropped_keys]
    if not dropped_keys:
        assert output == data


def test_a_global_header_that_governs_nothing_is_left_out() -> None:
    """tarfile, hence webdataset, raises at a tar that ends with one."""
    first, second = pack(sample("a"), "pax"), pack(sample("b"), "pax", {"comment": "x"})
    members = [*read(first), *read(second)]
    assert [m.is_global_header for m in members] == [False, False, True, False, False]
    assert [m[0] for m in tarfile_members(write([m.raw for m in members]))] == ["a.jpg", "a.txt", "b.jpg", "b.txt"]
    assert write([m.raw for m in members[:3]]) == first


@PROPERTY
@given(tars(max_samples=2), st.integers(0, 10_000))
def test_a_cut_tar_is_an_error_or_complete(data: bytes, at: int) -> None:
    members = read(data)
    ends = [member.offset + len(member.raw) for member in members]
    cut = at % len(data)
    complete = [member for member, end in zip(members, ends, strict=True) if end <= cut]
    try:
        found = read(data[:cut])
    except BadTarError as error:
        assert error.url == "x.tar"
        assert cut not in ends, "a cut between members cannot be told from a tar without end blocks"
        last = ends[-1] if ends else 0
        assert cut < last + 512, "all members were there"
    else:
        assert found == complete
        assert cut in ends or len(found) == len(members)


def test_every_cut_of_a_small_tar() -> None:
    data = pack([*sample("a", image=b"x" * 600), Entry("b" * 120 + ".txt", b"caption")], "gnu")
    ends = [member.offset + len(member.raw) for member in read(data)]
    for cut in range(ends[-1]):
        if cut in ends:
            assert len(read(data[:cut])) == ends.index(cut) + 1
        else:
            with pytest.raises(BadTarError):
                read(data[:cut])
            with pytest.raises(BadTarError):
                count_samples(io.BytesIO(data[:cut]), "x.tar")


@PROPERTY
@given(tars(max_samples=3), st.integers(0), st.integers(1, 255))
def test_a_changed_header_byte_is_noticed_or_harmless(data: bytes, where: int, change: int) -> None:
    members = read(data)
    places = [m.offset + i for m in members for i in range(512)]
    if not places:
        return
    place = places[where % len(places)]
    damaged = bytearray(data)
    damaged[place] ^= change
    try:
        found = read(bytes(damaged))
    except BadTarError as error:
        assert error.offset is not None
    else:
        # Only the checksum's own field has bytes that mean nothing.
        assert [(m.name, m.data) for m in found] == [(m.name, m.data) for m in members]


@PROPERTY
@given(tars())
def test_counting_agrees_with_grouping_and_webdataset(data: bytes) -> None:
    expected = len(webdataset_samples(data))
    assert sum(isinstance(item, Sample) for item in group(read(data))) == expected
    assert count_samples(io.BytesIO(data), "x.tar") == expected
    assert count_samples(Trickle(data, 100), "x.tar") == expected


def test_short_reads_are_put_together() -> None:
    data = pack([*sample("a", image=b"x" * 2000), *sample("b")], "pax")
    assert list(read_members(Trickle(data, 100), "x.tar")) == read(data)


@pytest.mark.parametrize("dialect", ["ustar", "gnu", "pax"])
def test_nothing_dropped_is_the_identical_file(dialect: str) -> None:
    data = pack([Entry("dir", type=tarfile.DIRTYPE), *sample("dir/a"), *sample("b", image=b"")], dialect)
    assert write([member.raw for member in read(data)]) == data


def test_padding_that_is_not_zero_survives() -> None:
    data = bytearray(pack(sample("a")))
    data[512 + 100] = 0x55
    assert write([member.raw for member in read(bytes(data))]) == bytes(data)


def test_the_end_of_the_tar_is_written_as_tarfile_does() -> None:
    for size in range(0, 12 * 1024, 512):
        entries = [Entry("a.bin", b"x" * size)]
        assert write([member.raw for member in read(pack(entries))]) == pack(entries)
    assert write([]) == pack([]) == bytes(10_240)


def test_what_follows_the_end_is_not_read_but_a_hole_is_an_error() -> None:
    data = pack(sample("a"))
    assert read(data + b"garbage" * 100) == read(data)
    body = b"".join(member.raw for member in read(data))
    with pytest.raises(BadTarError, match="zero block is followed by data") as caught:
        read(body + bytes(512) + data)
    assert caught.value.offset == len(body)


def test_an_empty_tar_and_an_empty_file_differ() -> None:
    assert read(END) == []
    assert count_samples(io.BytesIO(END), "x.tar") == 0
    with pytest.raises(BadTarError, match="empty file"):
        read(b"")


@pytest.mark.parametrize("data", [b"hello", b"\x89PNG" * 500, b"<html>" + b" " * 5000, bytes(range(256)) * 8])
def test_what_is_no_tar_is_said_so(data: bytes) -> None:
    with pytest.raises(BadTarError, match="not a tar file") as caught:
        read(data)
    assert caught.value.offset == 0


def test_damage_in_the_middle_names_the_offset() -> None:
    data = bytearray(pack(sample("a")))
    data[1024:1034] = b"\xff" * 10
    with pytest.raises(BadTarError, match="no tar header") as caught:
        read(bytes(data))
    assert (caught.value.url, caught.value.offset) == ("x.tar", 1024)


def test_a_cut_member_is_named() -> None:
    data = pack(sample("a", image=b"x" * 2000))
    with pytest.raises(BadTarError, match="cut short in this member") as caught:
        read(data[:1500])
    assert (caught.value.member, caught.value.offset) == ("a.jpg", 0)


def test_sizes_in_base_256_and_in_pax_headers() -> None:
    size = b"\x80" + (600).to_bytes(11, "big")
    member = read(header(size=size) + b"x" * 1024 + END)[0]
    assert (member.size, len(member.raw)) == (600, 512 + 1024)

    records = b"12 size=600\n"
    extended = header(type=b"x", size=b"%011o\0" % len(records)) + records.ljust(512, b"\0")
    member = read(extended + header() + b"y" * 1024 + END)[0]
    assert (member.size, bytes(member.data), member.has_pax) == (600, b"y" * 600, True)


@pytest.mark.parametrize("digits", [b"6x0", b"-60", b"1" * 30, b"1" * 5000])
def test_a_pax_size_that_is_no_number_is_refused(digits: bytes) -> None:
    record = b"size=" + digits + b"\n"
    record = b"%d %s" % (len(record) + 3 + (len(record) > 94) + (len(record) > 992), record)
    body = record.ljust(-(-len(record) // 512) * 512, b"\0")
    with pytest.raises(BadTarError, match="PAX header is not a number"):
        read(header(type=b"x", size=b"%011o\0" % len(record)) + body + header() + END)


@pytest.mark.parametrize("size", [b"\xff" * 12, b"12x45678901\0", b"-0000000001\0"])
def test_a_size_that_is_no_number_is_refused(size: bytes) -> None:
    with pytest.raises(BadTarError, match="size"):
        read(header(size=size) + END)


def test_old_headers_without_magic_and_signed_checksums() -> None:
    assert read(header(magic=bytes(8), type=b"\0") + END)[0].is_file
    folder = read(header(name=b"dir/\0", magic=bytes(8), type=b"\0", size=b"%011o\0" % 5) + END)[0]
    assert (folder.name, folder.is_file) == ("dir", False)

    block = bytearray(header(name="é.txt".encode()))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(b - 256 if b > 127 else b for b in block)
    assert is_header(bytes(block))
    assert read(bytes(block) + END)[0].name == "é.txt"


def test_names_that_are_not_utf8_fit_in_tables() -> None:
    name = read(header(name=b"\xff\xfe.txt\0") + END)[0].name
    assert name == "\\xff\\xfe.txt"
    assert name.encode()


@pytest.mark.parametrize(
    "records", [b"99 path=a\n", b"path=a\n", b"0 path=a\n", b"9 path=ab\n", b"9999999999999999999 path=a\n"]
)
def test_damaged_pax_records_are_refused(records: bytes) -> None:
    with pytest.raises(BadTarError, match="PAX header is damaged"):
        read(header(type=b"x", size=b"%011o\0" % len(records)) + records.ljust(512, b"\0") + header() + END)


def test_a_global_header_is_a_member_of_its_own() -> None:
    data = pack(sample("a"), "pax", {"comment": "x"})
    first = read(data)[0]
    assert (first.is_file, first.has_pax, first.offset) == (False, True, 0)


def test_extension_headers_without_a_member_are_refused() -> None:
    long_name = pack([Entry("n" * 150 + ".txt", b"x")], "gnu")[:1024]
    for ending in (b"", bytes(1024)):
        with pytest.raises(BadTarError, match="PAX record"):
            read(long_name + ending)
    with pytest.raises(BadTarError, match="global PAX header stands between"):
        read(long_name + header(type=b"g") + header() + END)


def test_limits() -> None:
    data = pack([Entry("a.bin", b"x" * 2000)])
    with pytest.raises(BadTarError, match="limit of 1999") as caught:
        read(data, Limits(member_bytes=1999))
    assert caught.value.member == "a.bin"
    assert len(read(data, Limits(member_bytes=2000))) == 1
    with pytest.raises(BadTarError, match="refused"):
        read(header(type=b"L", size=b"%011o\0" % (1 << 22)) + END)


def test_errors_survive_pickling() -> None:
    import pickle

    with pytest.raises(BadTarError) as caught:
        read(b"no tar")
    copy: Any = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy)) == (BadTarError, str(caught.value))
