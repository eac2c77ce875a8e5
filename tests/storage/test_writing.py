"""Writers of files on disk and in memory: nothing is visible before the end, and nothing is left when it fails."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecif.errors import ConflictError, StorageError, UsageError
from ecif.storage import Published, Storage, disk, join

DATA = os.urandom(100_000)
DIGEST = Published(len(DATA), hashlib.sha256(DATA).hexdigest())


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(disk, "COPY_BYTES", 8_000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("spool")))


def _write(storage: Storage, url: str, data: bytes = DATA) -> Published:
    with storage.create(url) as writer:
        for start in range(0, len(data), 3_000):
            writer.write(memoryview(data)[start : start + 3_000])
        return writer.finish()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.integers(0, 20_000), max_size=8), bound=st.none() | st.integers(0, 60_000))
def test_however_it_is_cut_into_writes(root: str, steps: list[int], bound: int | None) -> None:
    data, done = (DATA * 2)[: sum(steps)], 0
    url = join(root, os.urandom(8).hex())
    with Storage().create(url, at_most=bound) as writer:
        for step in steps:
            piece = bytearray(data[done : done + step])
            writer.write(piece)
            piece[:] = bytes(len(piece))  # the caller's again
            done += step
        assert not Storage().exists(url)
        assert writer.finish() == Published(len(data), hashlib.sha256(data).hexdigest())
    assert Storage().read_bytes(url) == data


@pytest.mark.parametrize("size", [0, 3_000, 100_000])
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_leaving_without_finish(root: str, tmp_path: Path, size: int, error: type[BaseException] | None) -> None:
    try:
        with Storage().create(join(root, "a")) as writer:
            writer.write(DATA[:size])
            if error is not None:
                raise error
    except BaseException as raised:
        assert type(raised) is error
    with pytest.raises(ValueError, match="finished"):
        writer.write(b"x")
    assert Storage().list(root) == []
    assert os.listdir(tmp_path) == os.listdir(tempfile.gettempdir()) == []


def test_again_and_other_content(root: str, tmp_path: Path) -> None:
    storage, url = Storage(), join(root, "a")
    assert _write(storage, url) == DIGEST == _write(storage, url)
    for other in (DATA[:-1], DATA[:-1] + bytes([DATA[-1] ^ 1]), b""):
        with pytest.raises(ConflictError):
            _write(storage, url, other)
    assert storage.read_bytes(url) == DATA
    assert len(os.listdir(tmp_path)) == ("memory" not in root)
    assert os.listdir(tempfile.gettempdir()) == []


def test_another_writer_is_faster(root: str) -> None:
    storage, url = Storage(), join(root, "a")
    for data in (DATA, DATA[::-1]):
        with storage.create(url) as writer:
            writer.write(DATA)
            storage.publish(url, data, replace=True)
            if data == DATA:
                assert writer.finish() == DIGEST
                storage.delete(url)
            else:
                with pytest.raises(ConflictError):
                    writer.finish()
    assert storage.read_bytes(url) == DATA[::-1]


def test_what_is_compared_with_vanishes(tmp_path: Path) -> None:
    url = str(tmp_path / "a")
    Storage().publish(url, DATA)
    with Storage().create(url) as writer:
        writer.write(DATA)
        os.unlink(url)
        with pytest.raises(StorageError, match=r"was removed while .*run again"):
            writer.finish()
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The background thread meets it, the caller is told."""
    room = [50_000]
    write = os.write

    def little_room(handle: int, data: memoryview) -> int:
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data)

    monkeypatch.setattr(os, "write", little_room)
    with pytest.raises(StorageError, match=r"a: cannot write: No space left on device; make room"):
        _write(Storage(), str(tmp_path / "a"))
    assert os.listdir(tmp_path) == []


def test_short_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[: max(1, len(data) // 3)]))
    assert _write(Storage(), str(tmp_path / "a")) == DIGEST
    assert (tmp_path / "a").read_bytes() == DATA


def test_threads_end_with_the_writer(root: str) -> None:
    before = threading.active_count()
    for name in ("a", "b", "c"):
        _write(Storage(), join(root, name))
        with Storage().create(join(root, "left")) as writer:
            writer.write(DATA)
    assert threading.active_count() <= before + 1  # fsspec's own


def test_web_servers_are_not_written_to() -> None:
    with pytest.raises(UsageError, match="for reading"):
        Storage().create("https://127.0.0.1:1/a")


def test_publish_first(root: str) -> None:
    storage, url = Storage(), join(root, "a")
    assert storage.publish_first(url, DATA) == DIGEST
    assert storage.publish_first(url, b"another") == DIGEST == storage.publish_first(url, DATA)
    assert storage.read_bytes(url) == DATA


def test_publish_first_where_a_directory_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(ConflictError):
        Storage().publish_first(str(tmp_path / "a"), b"x")
