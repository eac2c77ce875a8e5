"""The short way to read a header says what the long one says, or nothing."""

from __future__ import annotations

import io

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ecif.shards import entries, headers, names
from ecif.shards.alike import Alike
from ecif.shards.headers import BLOCK
from ecif.shards.tar import read_members, scan
from tests.shards.tars import Entry, Tar, pack, sample, tars


def blocks(data: bytes) -> list[bytes]:
    """The members' own headers, without those that extend them."""
    return [m.raw[m.data_start - BLOCK : m.data_start] for m in read_members(io.BytesIO(data), "x")]


def agrees(alike: Alike, block: bytes) -> bool:
    """Whether it was read; then it was read rightly."""
    found = alike.read(b"before" + block, 6)
    if found is None:
        return False
    assert headers.is_header(block)
    assert headers.parse(block) == (*found, b"0")
    return True


def test_the_headers_of_an_ordinary_shard_are_alike() -> None:
    data = pack([entry for i in range(9) for entry in sample(f"folder/{i:04d}", image=bytes(i * 300))])
    first, *others = blocks(data)
    assert all(agrees(Alike(first), block) for block in others)


def test_a_directory_a_link_and_another_time_are_not() -> None:
    plain, *others = blocks(pack([Entry("a.jpg"), Entry("b", type=b"5"), Entry("c", type=b"2")]))
    assert not any(agrees(Alike(plain), block) for block in others)
    later = plain.replace(b"14524770400", b"14524770401")
    assert later != plain
    assert not agrees(Alike(plain), later)


@settings(deadline=None, max_examples=60)
@given(tars(max_samples=4), st.data())
def test_whatever_is_read_shortly_is_read_rightly(data: Tar, draws: st.DataObject) -> None:
    found = blocks(data)
    plain = [block for block in found if block[156:157] == b"0"]
    if not plain:
        return
    alike = Alike(draws.draw(st.sampled_from(plain)))
    for block in found:
        agrees(alike, block)
        damaged = bytearray(block)
        for _ in range(draws.draw(st.integers(1, 3))):
            place = draws.draw(st.one_of(st.integers(0, BLOCK - 1), st.integers(120, 160)))
            damaged[place] = draws.draw(st.sampled_from([0, 32, 48, 49, 55, 56, 95, 200]))
        agrees(alike, bytes(damaged))
        # A damaged header whose checksum was set right again.
        total = sum(damaged[:148]) + sum(damaged[156:]) + 8 * ord(" ")
        damaged[148:156] = b"%06o\0 " % total
        agrees(alike, bytes(damaged))


NAMES = st.text("ab./_\n\u00e9", min_size=1, max_size=8).filter(lambda name: not name.endswith("/"))


@settings(deadline=None, max_examples=300)
@given(st.lists(NAMES, min_size=2, max_size=12), st.sampled_from(["", "folder", "_", "a.b", "a\nb"]))
@example(["a.b/.jpg", "a.b/.txt"], "")
@example(["__x.jpg", "__x.__"], "")
@example(["a.\nb/c.jpg", "a.\nb/c.txt"], "")
@example(["a.jpg", "a.x/b.jpg"], "")
def test_groups_are_of_one_key_and_all_members_are_in_them(found: list[str], prefix: str) -> None:
    data = bytearray(pack([Entry(name, b"x") for name in found]))
    for at in range(0, 1024 * len(found), 1024):
        data[at + 345 : at + 345 + len(prefix)] = prefix.encode()
        data[at + 148 : at + 156] = b"%06o\0 " % (sum(data[at : at + 148]) + sum(data[at + 156 : at + 512]) + 256)
    run = Alike(bytes(data[:512])).run(bytes(data), 0, 0)
    assert run is not None
    expected = [f"{prefix}/{name}" if prefix else name for name in found]
    assert run.names() == expected
    keys, ends = run.groups()
    spread = [key for key, begin, end in zip(keys, [0, *ends], ends, strict=False) for _ in range(begin, end, 1024)]
    assert spread == [parts and parts[0] for parts in map(names.split, expected)]


def test_a_shard_is_read_in_runs_and_a_tar_inside_it_is_payload() -> None:
    inner = pack([entry for i in range(20) for entry in sample(f"inner/{i}")])
    data = pack([entry for i in range(50) for entry in sample(f"{i:03d}", image=inner if i == 25 else bytes(20_000))])
    first, run = scan(io.BytesIO(data), "x").batches()
    assert isinstance(first, entries.Entry)
    assert not isinstance(run, entries.Entry)
    expected = [member.name for member in read_members(io.BytesIO(data), "x")]
    assert [first.name, *run.names()] == expected
    assert run.groups()[0][:3] == ["000", "001", "002"]
    assert run.last()[1] == "049.txt"
