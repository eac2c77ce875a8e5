"""What must hold whatever bytes come in: used by the property tests on each commit and by bench.fuzz for hours.

Every function takes hostile bytes, raises AssertionError where an invariant does not hold, and returns in a word what
became of the input, so that a long run can tell whether it reached what it should.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import tarfile
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import PIL.Image
from webdataset import tariterators

from ecif.errors import BadTarError
from ecif.shards import entries, gz
from ecif.shards.compare import Comparison
from ecif.shards.decode import STATUSES, Pair, Undecodable, decode_image, to_pair
from ecif.shards.headers import is_header
from ecif.shards.samples import Sample, group, stretches, track
from ecif.shards.tar import Entry, Limits, Member, TarWriter, count_samples, read_members, scan
from tests.shards.tars import Trickle

URL = "x.tar"
LIMITS = Limits(member_bytes=1 << 20, pixels=1 << 20)


def read(data: bytes, step: int = 1 << 22) -> tuple[list[Member], str | None]:
    """The members that came before the end or the error, and the error."""
    found: list[Member] = []
    try:
        for member in read_members(Trickle(data, step), URL, LIMITS):
            found.append(member)
    except BadTarError as error:
        assert error.url == URL
        assert error.offset is not None
        return found, str(error)
    return found, None


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Headers are read together however few they are; else only large tars come to it."""
    worthwhile, entries._WORTHWHILE = entries._WORTHWHILE, 512
    try:
        yield
    finally:
        entries._WORTHWHILE = worthwhile


def check_tar(data: bytes, step: int) -> str:
    """All invariants of reading and copying a tar; `step` is how many bytes the stream hands out at once."""
    members, error = read(data)
    if gz.is_gzip(data) and not is_header(data[:512]):
        return check_gzip(data, step)
    assert read(data, step) == (members, error), "the size of the reads makes a difference"
    with together():
        assert read(data) == (members, error), "reading headers together makes a difference"
        _check_scan(data, members, error)
    for before, member in zip([None, *members], members, strict=False):
        assert member.offset == (0 if before is None else before.offset + len(before.raw))
        assert len(member.raw) % 512 == 0
    assert data.startswith(b"".join(member.raw for member in members)), "raw bytes are not those of the file"
    _check_scan(data, members, error)
    if error is not None:
        return "refused after members" if members else "refused"
    _check_copy(data, members)
    _check_samples(data, members)
    _check_stretches(data)
    return _check_tarfile(data, members)


def _check_scan(data: bytes, members: list[Member], error: str | None) -> None:
    """A scan that reads no payload meets the same members, and the same error unless a payload is in its way."""
    found, problem = [], None
    try:
        for entry in scan(io.BytesIO(data), URL):
            found.append((entry.name, entry.offset, entry.length, entry.size, entry.is_file, entry.has_pax))
    except BadTarError as caught:
        problem = str(caught)
    held = [(m.name, m.offset, len(m.raw), m.size, m.is_file, m.has_pax) for m in members]
    assert found[: len(held)] == held
    if error is not None and "more than the limit" in error:
        assert found[len(held)][3] > LIMITS.member_bytes
    elif error is not None and len(found) > len(held):
        assert "cut short in this member" in error
        assert problem == error
        assert len(found) == len(held) + 1
    else:
        assert problem == error


def _check_copy(data: bytes, members: list[Member]) -> None:
    """What is written from a scan is what is written from memory, and reads as the same members, byte for byte."""
    copy, again = io.BytesIO(), io.BytesIO()
    writer = TarWriter(copy)
    for entry in scan(io.BytesIO(data), URL):
        writer.add(entry)
    assert writer.end() == len(copy.getvalue())
    second = TarWriter(again)
    for member in members:
        second.write(member.raw)
    second.end()
    assert copy.getvalue() == again.getvalue()
    raws = [member.raw for member in members]
    while raws and raws[-1][156:157] == b"g":
        raws.pop()
    entries = scan(copy, URL)
    copy.seek(0)
    assert [b"".join(entry.pieces()) for entry in entries] == raws
    assert (entries.end_blocks, entries.trailing, entries.size % 10240) == (2, None, 0)
    _check_comparison(data, copy.getvalue())


def _check_comparison(data: bytes, copy: bytes) -> None:
    """A copy is found to be one, and no more so when any one of its bytes is another."""
    at = zlib.crc32(data) % len(copy)
    for written, same in ((copy, True), (copy[:at] + bytes([copy[at] ^ 1]) + copy[at + 1 :], False)):
        comparison = Comparison(Trickle(written, 1000), URL)
        for entry in scan(io.BytesIO(data), URL):
            comparison.expect(entry)
        assert comparison.finish().size == len(written)
        assert (comparison.difference is None) == same


def _check_samples(data: bytes, members: list[Member]) -> None:
    """group and track number samples alike, and as webdataset does."""
    expected: list[tuple[str, int, str]] = []
    key, index = None, -1
    for member in members:
        if not member.is_file or _is_metadata(member.name):
            continue
        base, extension = tariterators.base_plus_ext(member.name)
        if base is not None:
            index += base != key
            key = base
            expected.append((member.name, index, extension.lower()))
    many = Limits(members_per_sample=1 << 30, sample_bytes=1 << 40)
    placed = [(entry.name, place) for entry, place in track(scan(io.BytesIO(data), URL), many)]
    assert [name for name, _ in placed] == [member.name for member in members]
    assert [(name, place.index, place.extension) for name, place in placed if place is not None] == expected
    grouped = [item for item in group(members, many) if isinstance(item, Sample)]
    assert [s.index for s in grouped] == list(range(index + 1))
    assert [(m.name, s.index) for s in grouped for m in s.members] == [(name, n) for name, n, _ in expected]
    assert count_samples(io.BytesIO(data), URL) == index + 1
    for found in grouped:
        pair = to_pair(found, "00000", "json:caption", LIMITS)
        assert isinstance(pair, Pair) or pair.status in STATUSES


def _check_stretches(data: bytes) -> None:
    """Stretches are the members of `track`, side by side: the same bytes for the same samples."""
    members = track(scan(io.BytesIO(data), URL), Limits(members_per_sample=1 << 30))
    expected = [(place and (place.index, place.key), place is not None and place.first, e) for e, place in members]
    with together():
        met = 0
        for stretch, place in stretches(scan(io.BytesIO(data), URL)):
            assert b"".join(stretch.pieces()) == data[stretch.offset : stretch.offset + stretch.length]
            end, first = stretch.offset + stretch.length, place is not None and place.first
            assert stretch.offset == expected[met][2].offset
            assert not isinstance(stretch, Entry) or stretch == expected[met][2]
            while met < len(expected) and expected[met][2].offset < end:
                assert expected[met][:2] == (place and (place.index, place.key), first)
                first, met = False, met + 1
        assert met == len(expected)


def _is_metadata(name: str) -> bool:
    return ("/" not in name and name.startswith("__") and name.endswith("__")) or (
        tariterators.re.match(r"__[^/]*__($|/)", name) is not None
    )


def _check_tarfile(data: bytes, members: list[Member]) -> str:
    """Where tarfile reads to its end, it has read the same."""
    ours = [(m.name, m.is_file, bytes(m.data) if m.is_file else b"") for m in members if not m.is_global_header]
    theirs: list[tuple[str, bool, bytes]] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as tar:
            for info in tar:
                payload: Any = tar.extractfile(info) if info.isreg() else None
                name = info.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                theirs.append((name, info.isreg(), b"" if payload is None else payload.read()))
    except Exception as error:  # tarfile raises many kinds; only its success tells anything
        assert theirs == ours[: len(theirs)]
        return f"read; tarfile: {type(error).__name__}"
    assert theirs == ours
    return "read"


def check_cut(data: bytes, at: int) -> str:
    """A tar that is read whole, cut anywhere: noticed, or complete up to the end of a member."""
    members, error = read(data)
    ends = [member.offset + len(member.raw) for member in members]
    found, problem = read(data[:at])
    assert [m.raw for m in found] == [m.raw for m in members[: len(found)]]
    if error is not None or problem is not None:
        return "noticed"
    entries = scan(io.BytesIO(data[:at]), URL)
    assert len(list(entries)) == len(found)
    if len(found) == len(members):
        return "all members there"
    assert at == ends[len(found) - 1]
    assert entries.end_blocks == 0
    return "between members"


def check_gzip(data: bytes, step: int) -> str:
    """What claims to be gzip: read as the tar that Python's gzip makes of it, or refused."""
    members, error = read(data)
    found, problem = read(data, step)
    # How much comes out before a damage is met depends on how much is read at once.
    assert (problem is None) == (error is None)
    assert [m.raw for m, _ in zip(found, members, strict=False)] == [
        m.raw for _, m in zip(found, members, strict=False)
    ]
    assert len(found) == len(members) or error is not None
    if error is not None:
        return "refused"
    try:
        plain = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as failure:
        raise AssertionError(f"read, but Python's gzip says: {failure}") from failure
    assert read(plain) == (members, None)
    return "read"


def check_image(data: bytes) -> str:
    """Bytes become an RGB image, the one that webdataset makes of them, or a status."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            image = decode_image(data, LIMITS)
        except Undecodable as error:
            assert error.status in STATUSES
            assert error.detail
            return error.status
    assert image.mode == "RGB"
    assert image.width * image.height <= LIMITS.pixels
    with warnings.catch_warnings(), io.BytesIO(data) as stream:
        warnings.simplefilter("ignore")
        theirs = PIL.Image.open(stream)
        theirs.load()
        assert image.tobytes() == theirs.convert("RGB").tobytes()
    return "ok"


def check_record(data: bytes) -> str:
    """A .json member of any bytes gives a pair or a status."""
    sample = Sample("k", 0, (_member("k.jpg", b"image"), _member("k.json", data)), None)
    pair = to_pair(sample, "00000", "json:caption", Limits(json_depth=8, json_bytes=1 << 20))
    assert pair.uid
    pair.uid.encode()
    if isinstance(pair, Pair):
        pair.caption.encode()
        return "pair"
    assert pair.status in STATUSES
    return pair.status


def _member(name: str, data: bytes) -> Member:
    return Member(name, data, 0, len(data), 0, is_file=True, has_pax=False)


def seed_images() -> list[bytes]:
    """A small image in each format and mode."""
    found = []
    for format, mode in itertools.product(
        ("JPEG", "PNG", "WEBP", "GIF"), ("RGB", "L", "P", "RGBA", "CMYK", "1", "I;16", "LA")
    ):
        image = PIL.Image.effect_noise((12, 9), 60)
        buffer = io.BytesIO()
        try:
            image.convert(mode).save(buffer, format)
        except (OSError, ValueError):
            continue  # not every format has every mode
        found.append(buffer.getvalue())
    frames = [PIL.Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for format in ("GIF", "WEBP", "PNG"):
        buffer = io.BytesIO()
        frames[0].save(buffer, format, save_all=True, append_images=frames[1:])
        found.append(buffer.getvalue())
    return found
