"""Tars that no packer of ours writes: other dialects by hand, and damage of every kind to good ones.

`damage` takes its choices from a `random.Random`, so that the property tests (through hypothesis) and bench.fuzz (by
itself, a hundred times faster) do the same things.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable

from hypothesis import strategies as st

from ecif.shards.headers import is_header
from tests.shards.tars import END, PLACES, Entry, Tar, extension, header, pack, records, sample, tars, with_checksum

_KINDS = [bytes([kind]) for kind in b"0\x0001234567LKxXgSDMNVA"]
_NAMES = [
    b"", b".", b"..", b"/", b"./000.jpg", b"/etc/passwd.txt", b"../../up.jpg", b"a b.txt", b".hidden", b".a.b",
    b"no dot", b"a.b.c.d", b"a\nb.txt", b"\x1b[31m.txt", b"\xff\xfe.txt", b"\\xff\\xfe.txt", "日本.jpg".encode(),
    b"a" * 100, b"__m__", b"__m__/a.txt", b"__m__.json", b"dir/", b"a\0b.txt", b"\x1f\x8b\x08.txt",
]  # fmt: skip
_NUMBERS = [
    b"", b"0", b"1", b"777", b"00000001000", b"00000000001", b"1_0", b"-1", b"+1", b"0o7", b"8", b"x", b" 12 ", b"1 2",
    b"\x80" + bytes(11), b"\x80" + bytes(9) + b"\2\0", b"\x80" + b"\xff" * 11, b"\xff" * 12,
    b"\x80\0\0\0\0\0\0\2\0\0\0\0", b"777777777777", b"\0\0001", b"\xc2\xb2",
]  # fmt: skip
_RECORDS = [
    b"path=p.jpg", b"path=", b"path=" + b"long" * 80 + b".txt", b"path=\xff.txt", b"path=dir/", b"size=0", b"size=512",
    b"size=600", b"size=", b"size=x", b"size=8589934592", b"linkpath=l", b"comment=\0", b"mtime=1.5", b"mtime=x",
    b"hdrcharset=BINARY", b"GNU.sparse.major=1", b"GNU.sparse.map=0,1", b"GNU.sparse.size=5", b"SUN.holesdata=1", b"=",
    b"charset=ISO-IR 10646 2000 UTF-8", b"a=b=c", b"uid=x", b"SCHILY.xattr.user.x=\xff\0\n",
]  # fmt: skip


def damage(data: bytes, choose: random.Random) -> bytes:
    """A tar changed in one to three ways."""
    for _ in range(choose.randint(1, 3)):
        data = choose.choice(_WAYS)(data, choose)
    return data


def _headers(data: bytes) -> list[int]:
    return [at for at in range(0, len(data) - 511, 512) if is_header(data[at : at + 512])]


def _cut(data: bytes, choose: random.Random) -> bytes:
    return data[: choose.randint(0, len(data))]


def _flip(data: bytes, choose: random.Random) -> bytes:
    if not data:
        return data
    at = choose.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << choose.randrange(8)]) + data[at + 1 :]


def _field(data: bytes, choose: random.Random) -> bytes:
    """A header field with another value and a checksum that fits: what a checksum cannot find."""
    places = _headers(data)
    if not places:
        return data
    at, field = choose.choice(places), choose.choice(list(PLACES))
    block = bytearray(data[at : at + 512])
    if field == "type":
        value = choose.choice(_KINDS)
    elif field in ("name", "linkname", "prefix", "magic", "uname", "gname"):
        value = choose.choice(_NAMES)[: {"magic": 8, "uname": 32, "gname": 32}.get(field, 100)].ljust(8, b"\0")
    else:
        width = 12 if field in ("size", "mtime") else 8
        value = choose.choice(_NUMBERS)[:width].ljust(width, b"\0")
    block[PLACES[field] : PLACES[field] + len(value)] = value
    return data[:at] + with_checksum(bytes(block)) + data[at + 512 :]


def _byte(data: bytes, choose: random.Random) -> bytes:
    """Any byte of a header, and a checksum that fits."""
    places = _headers(data)
    if not places:
        return data
    at = choose.choice(places)
    block = bytearray(data[at : at + 512])
    block[choose.randrange(512)] = choose.randrange(256)
    return data[:at] + with_checksum(bytes(block)) + data[at + 512 :]


def _insert(data: bytes, choose: random.Random) -> bytes:
    at = choose.randint(0, len(data) // 512) * 512
    body = b"".join(b"%d %s\n" % (len(r) + 3 + (len(r) > 6) + (len(r) > 95), r) for r in choose.choices(_RECORDS, k=2))
    new = choose.choice(
        [
            bytes(512),
            END,
            choose.randbytes(512),
            choose.randbytes(choose.randint(1, 511)),
            header(type=choose.choice(_KINDS), name=choose.choice(_NAMES)[:99] + b"\0"),
            header(type=choose.choice(_KINDS), size=b"00000000600\0") + bytes(1024),
            extension(choose.choice([b"x", b"X", b"g"]), body),
            extension(choose.choice([b"x", b"X", b"g"]), body[: choose.randint(0, len(body))]),
            extension(b"L", choose.choice(_NAMES) + b"\0"),
            extension(b"K", b"link\0"),
            extension(b"x", records(path=choose.choice(_NAMES))),
        ]
    )
    return data[:at] + new + data[at:]


def _delete(data: bytes, choose: random.Random) -> bytes:
    at = choose.randint(0, len(data) // 512) * 512
    return data[:at] + data[at + 512 * choose.randint(1, 3) :]


def _swap(data: bytes, choose: random.Random) -> bytes:
    places = [*_headers(data), len(data)]
    if len(places) < 4:
        return data
    a, b, c = sorted(choose.sample(places, 3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _repeat(data: bytes, choose: random.Random) -> bytes:
    places = [*_headers(data), len(data)]
    a, b = sorted(choose.choices(places, k=2))
    return data[:b] + data[a:b] + data[b:]


def _append(data: bytes, choose: random.Random) -> bytes:
    other = pack(sample("after"), choose.choice(["ustar", "gnu", "pax"]))
    tail = choose.choice([choose.randbytes(choose.randint(1, 2000)), bytes(choose.randint(1, 20_000)), other, b"\0x"])
    return data + tail


_WAYS: list[Callable[[bytes, random.Random], bytes]] = [
    _cut, _flip, _field, _field, _byte, _insert, _insert, _delete, _swap, _repeat, _append,
]  # fmt: skip


def compress(data: bytes, choose: random.Random) -> bytes:
    """A tar as one to three gzip streams one after another, at times filled up with zeros."""
    cuts = sorted(choose.randint(0, len(data)) for _ in range(choose.randint(0, 2)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    packed = b"".join(gzip.compress(piece, choose.choice([0, 1, 9]), mtime=0) for piece in pieces)
    return packed + bytes(choose.choice([0, 0, 7]))


def spoil(data: bytes, choose: random.Random) -> bytes:
    """Bytes of any kind, changed somewhere: for what has no blocks."""
    for _ in range(choose.randint(1, 4)):
        at, more = choose.randint(0, len(data)), choose.randbytes(choose.randint(1, 6))
        data = choose.choice(
            [
                data[:at],
                data[:at] + more + data[at + len(more) :],
                data[:at] + more + data[at:],
                data[:at] + data[at + choose.randint(1, 64) :],
                _flip(data, choose),
                data + more,
            ]
        )
    return data


@st.composite
def odd_tars(draw: st.DrawFn) -> Tar:
    """Tars of the dialects that Python does not write, whole: v7, star, Solaris, long names, links, odd names."""
    blocks = b""
    for i in range(draw(st.integers(0, 5))):
        body = bytes(draw(st.sampled_from([0, 1, 511, 512, 513])))
        size = b"%011o\0" % len(body)
        if draw(st.booleans()):
            size = b"\x80" + len(body).to_bytes(11, "big")
        fields = {
            "name": draw(st.sampled_from(_NAMES)).ljust(100, b"\0")
            if draw(st.booleans())
            else b"%09d.jpg\0" % (i // 2),
            "size": size,
            "type": draw(st.sampled_from([b"0", b"\0", b"7", b"1", b"2", b"5", b"D", b"V"])),
            "magic": draw(st.sampled_from([b"ustar\00000", b"ustar  \0", bytes(8)])),
            "prefix": draw(st.sampled_from([b"", b"deep/folder"])),
        }
        if draw(st.integers(0, 2)) == 0:
            kind = draw(st.sampled_from([b"L", b"K", b"x", b"X", b"g"]))
            name = draw(st.sampled_from(_NAMES))
            blocks += extension(kind, name + b"\0" if kind in b"LK" else records(comment=name) if kind == b"g" else
                                records(path=name, size=b"%d" % len(body)))  # fmt: skip
        has_data = fields["type"] not in b"125"
        blocks += header(**fields) + (body.ljust(-(-len(body) // 512) * 512, b"\0") if has_data else b"")
    return Tar(blocks + draw(st.sampled_from([END, bytes(10240), b"", bytes(512)])))


def any_tars() -> st.SearchStrategy[Tar]:
    """Whole tars of all dialects."""
    return st.one_of(tars(max_samples=3), odd_tars())


@st.composite
def damaged(draw: st.DrawFn) -> Tar:
    """A tar of any dialect, damaged."""
    return Tar(damage(draw(any_tars()), draw(st.randoms(use_true_random=False))))


def odd_entries() -> list[Entry]:
    """Members of a sample whose names are all odd."""
    return [Entry(name.decode("utf-8", "surrogateescape"), b"x") for name in _NAMES if b"\0" not in name and name]
