"""Reading S3 by ranges: what a plain file would give, of one version of the object, without what is skipped."""

from __future__ import annotations

import asyncio
import io
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecif.errors import InputError, MissingFileError, StorageError
from ecif.storage import FileInfo, Storage, ranges
from ecif.storage.s3 import S3Store

from .proxy import Proxy

if TYPE_CHECKING:
    from ..conftest import Bucket

DATA = os.urandom(100_000)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "BLOCK", 8_000)
    monkeypatch.setattr(ranges, "FIRST", 1_000)


@pytest.fixture
def url(s3_bucket: Bucket, storage: Storage) -> str:
    storage.publish(f"{s3_bucket.url}/a", DATA)
    return f"{s3_bucket.url}/a"


_SEEKS = st.tuples(st.just("seek"), st.integers(0, 120_000))
_STEPS = st.tuples(st.just("step"), st.integers(-20_000, 20_000))
_READS = st.tuples(st.sampled_from(["read", "readinto"]), st.integers(0, 30_000))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_SEEKS | _STEPS | _READS, max_size=12))
def test_the_same_as_a_plain_file(storage: Storage, url: str, moves: list[tuple[str, int]]) -> None:
    plain = io.BytesIO(DATA)
    with storage.open(url) as stream:
        for move, number in moves:
            if move == "seek":
                assert stream.seek(number) == plain.seek(number)
            elif move == "step":
                number = max(number, -plain.tell())
                assert stream.seek(number, io.SEEK_CUR) == plain.seek(number, io.SEEK_CUR)
            elif move == "read":
                assert stream.read(number) == plain.read(number)
            else:
                one, other = bytearray(number), bytearray(number)
                assert stream.readinto(one) == plain.readinto(other)
                assert one == other
            assert stream.tell() == plain.tell()
        assert stream.read() == plain.read()


def _fetched(proxy: Proxy, reads: list[tuple[int, int]], through: Storage, url: str) -> tuple[int, int]:
    """Requests, and bytes that arrived, for reads of (position, length)."""
    proxy.reset()
    with through.open(url) as stream:
        for position, length in reads:
            stream.seek(position)
            assert stream.read(length) == DATA[position : position + length]
    return proxy.done.count("GetObject"), proxy.sent


def test_a_small_file_is_one_request(through: Storage, s3_bucket: Bucket, storage: Storage, proxy: Proxy) -> None:
    for size in (1, 999, 1_000):
        storage.publish(f"{s3_bucket.url}/{size}", DATA[:size])
        proxy.reset()
        assert through.read_bytes(f"{s3_bucket.url}/{size}") == DATA[:size]
        assert proxy.done == ["GetObject"]


def test_an_empty_object(s3_bucket: Bucket, storage: Storage) -> None:
    storage.publish(f"{s3_bucket.url}/empty", b"")
    with storage.open(f"{s3_bucket.url}/empty") as stream:
        assert (stream.size, stream.read(), stream.read(5)) == (0, b"", b"")


def test_reading_on_fetches_everything_once(through: Storage, url: str, proxy: Proxy) -> None:
    requests, sent = _fetched(proxy, [(start, 300) for start in range(0, len(DATA), 300)], through, url)
    assert sent == len(DATA)
    assert requests < len(DATA) / ranges.BLOCK + 5


def test_short_steps_stay_in_the_window(through: Storage, url: str, proxy: Proxy) -> None:
    """As when members of 700 bytes are skipped and only their headers read."""
    requests, sent = _fetched(proxy, [(start, 50) for start in range(0, len(DATA), 750)], through, url)
    assert sent == len(DATA)
    assert requests < len(DATA) / ranges.BLOCK + 8


def test_what_is_skipped_is_not_fetched(through: Storage, url: str, proxy: Proxy) -> None:
    """As when members of 20,000 bytes are skipped."""
    requests, sent = _fetched(proxy, [(start, 50) for start in range(0, len(DATA), 20_000)], through, url)
    assert requests == 5
    assert sent <= 5 * (50 + ranges.FIRST)


def test_back_and_forth_in_a_block(through: Storage, url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """One request is all that is waited for; what is asked for ahead lies behind it, and is asked for once."""
    asked: list[tuple[int, int]] = []
    receive = S3Store.receive

    async def noted(store: S3Store, url: str, start: int, into: memoryview, file: FileInfo | None) -> FileInfo:
        asked.append((start, start + len(into)))
        if start:
            await asyncio.sleep(60)
            raise AssertionError("waited for")
        return await receive(store, url, start, into, file)

    monkeypatch.setattr(S3Store, "receive", noted)
    requests, _ = _fetched(proxy, [(500, 10), (3, 10), (900, 10), (0, 10)], through, url)
    assert requests == 1
    assert asked[0] == (0, ranges.FIRST)
    assert [start for start, _ in asked[1:]] == [stop for _, stop in asked[:-1]]


@pytest.mark.parametrize("fault", [None, "unconditional"])
@pytest.mark.parametrize("after", [b"2" * len(DATA), DATA[:-1], DATA + b"x", b""])
def test_an_object_that_is_replaced_while_it_is_read(
    storage: Storage, through: Storage, url: str, proxy: Proxy, fault: str | None, after: bytes
) -> None:
    """Also on a server that ignores If-Match, and by content of the same size."""
    proxy.on = lambda operation: fault
    with through.open(url) as stream:
        assert stream.read(500) == DATA[:500]
        storage.publish(url, after, replace=True)
        with pytest.raises(StorageError, match="was replaced while it was read"):
            stream.read()
        assert proxy.done.count("GetObject") < 8  # blocks that were under way; none is asked for again


def test_an_object_that_is_removed_while_it_is_read(storage: Storage, url: str) -> None:
    with storage.open(url) as stream:
        stream.read(500)
        storage.delete(url)
        with pytest.raises(MissingFileError):
            stream.read()


def test_an_object_that_is_not_the_one_that_was_listed(storage: Storage, url: str) -> None:
    listed = storage.info(url)
    with storage.open(url, expect=listed) as stream:
        assert stream.read() == DATA
    storage.publish(url, DATA[::-1], replace=True)
    with pytest.raises(InputError, match=r"has changed since the inventory \(another tag\)") as caught:
        storage.open(url, expect=listed)
    assert not isinstance(caught.value, StorageError)
    storage.publish(url, b"", replace=True)
    with pytest.raises(InputError, match="0 bytes instead of 100000"):
        storage.open(url, expect=listed)


def test_a_server_that_ignores_ranges(through: Storage, url: str, proxy: Proxy) -> None:
    proxy.on = lambda operation: "whole"
    with through.open(url) as stream:
        assert stream.read(1_000) == DATA[:1_000]
        with pytest.raises(StorageError, match="bytes from 0 on instead of 1000"):
            stream.read(1)


@pytest.mark.usefixtures("rushing")
def test_every_body_is_cut(through: Storage, url: str, proxy: Proxy) -> None:
    """What arrived is kept: half of what is missing comes each time."""
    proxy.on = lambda operation: "cut"
    with through.open(url) as stream:
        assert stream.read(99_000) == DATA[:99_000]


@pytest.mark.usefixtures("rushing")
@pytest.mark.parametrize("fault", [500, 503, 429, "lost", "dropped", "cut", (400, "RequestTimeout")], ids=str)
def test_every_second_request_fails(through: Storage, url: str, proxy: Proxy, fault: str | int) -> None:
    proxy.on = lambda operation: fault if len(proxy.done) % 2 else None
    assert through.read_bytes(url) == DATA
    proxy.done.append("")
    assert through.read_bytes(url) == DATA


def test_a_refusal_in_the_middle_is_final(through: Storage, url: str, proxy: Proxy) -> None:
    with through.open(url) as stream:
        assert stream.read(500) == DATA[:500]
        proxy.on = lambda operation: 403
        done = len(proxy.done)
        with pytest.raises(StorageError, match="access denied"):
            stream.read()
        assert len(proxy.done) - done <= 1 + ranges.AHEAD


def test_a_server_that_says_nothing(s3_bucket: Bucket, through: Storage, url: str, proxy: Proxy) -> None:
    hurried = Storage(
        s3_bucket.options | {"endpoint_url": proxy.url, "config_kwargs": {"read_timeout": 0.2}}, patience=5
    )
    proxy.on = lambda operation: "stall" if len(proxy.done) == 1 else None
    assert hurried.read_bytes(url) == DATA
    assert proxy.done.count("GetObject") > 2
