"""Readers, and what is known of a file, on disk and in memory."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ecif.errors import InputError, MissingFileError, StorageError
from ecif.storage import Storage, join


def test_read(root: str) -> None:
    storage = Storage()
    url = join(root, "sub/a.bin")
    data = os.urandom(100_000)
    published = storage.publish(url, data)
    assert (published.size, published.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert storage.read_bytes(url) == data
    with storage.open(url) as stream:
        assert stream.read(10) == data[:10]
        assert stream.seek(50_000) == 50_000
        assert stream.read(5) == data[50_000:50_005]
        assert stream.tell() == 50_005
        assert stream.seek(-3, os.SEEK_END) == len(data) - 3
        assert stream.read(100) == data[-3:]
        assert stream.read(100) == b""
        assert stream.seek(10, os.SEEK_CUR) == len(data) + 10
        assert stream.read() == b""
        stream.seek(0)
        buffer = bytearray(7)
        assert stream.readinto(buffer) == 7
        assert bytes(buffer) == data[:7]
    with pytest.raises(ValueError, match="closed"):
        stream.read(1)
    info = storage.info(url)
    assert (info.url, info.size) == (storage.check(url), len(data))
    assert info.etag
    assert storage.fingerprint(url) == f"sha256-{hashlib.sha256(data).hexdigest()}"


def test_two_readers_of_a_file_do_not_share_a_position(root: str) -> None:
    storage = Storage()
    url = join(root, "a")
    storage.publish(url, b"0123456789")
    with storage.open(url) as one, storage.open(url) as other:
        assert one.read(4) == b"0123"
        assert other.read(2) == b"01"
        assert one.read(2) == b"45"


def test_what_is_missing(root: str) -> None:
    storage = Storage()
    storage.publish(join(root, "folder/file"), b"x")
    for name in ("absent", "absent/below", "folder", "folder/file/below"):
        url = join(root, name)
        assert not storage.exists(url)
        with pytest.raises(MissingFileError, match=name):
            storage.info(url)
        with pytest.raises(MissingFileError, match=name):
            storage.open(url)
    assert storage.exists(join(root, "folder/file"))
    assert storage.list(join(root, "absent")) == []
    assert storage.list(join(root, "folder/file")) == []
    assert storage.glob(join(root, "absent/*")) == []
    storage.delete(join(root, "absent"))


def test_a_replaced_file_has_another_tag(root: str) -> None:
    storage = Storage()
    url = join(root, "a")
    storage.publish(url, b"one")
    before = storage.info(url)
    assert storage.info(url) == before
    assert storage.list(root) == [before]
    storage.publish(url, b"two", replace=True)
    assert storage.info(url).etag != before.etag


def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"x" * 3_000_000)
    with Storage().open(str(path)) as stream:
        assert len(stream.read(1000)) == 1000
        os.truncate(path, 2_000_000)
        with pytest.raises(StorageError, match=r"a\.tar: ended after 2000000 of 3000000 bytes"):
            stream.read()


def test_a_file_that_is_written_to_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"x" * 3_000_000)
    with Storage().open(str(path)) as stream:
        stream.read(1000)
        path.write_bytes(b"y" * 3_000_000)
        os.utime(path, ns=(1, 1))
        with pytest.raises(StorageError, match=r"a\.tar: was replaced while it was read"):
            stream.read()


def test_a_file_that_is_not_the_one_that_was_listed(root: str) -> None:
    storage = Storage()
    url = join(root, "a")
    storage.publish(url, b"one")
    listed = storage.info(url)
    with storage.open(url, expect=listed) as stream:
        assert stream.read() == b"one"
    storage.publish(url, b"two", replace=True)
    with pytest.raises(InputError, match=r"a: has changed since the inventory \(another tag\)"):
        storage.open(url, expect=listed)
    storage.publish(url, b"three", replace=True)
    with pytest.raises(InputError, match=r"a: has changed since the inventory \(5 bytes instead of 3\)"):
        storage.open(url, expect=listed)


def test_bytes_that_are_known(root: str) -> None:
    storage = Storage()
    url = join(root, "a")
    known = storage.publish(url, b"one")
    assert storage.read_marked(url, known.size, known.sha256) == b"one"
    with pytest.raises(InputError, match="has 3 bytes, but 4 were recorded"):
        storage.read_marked(url, 4, known.sha256)
    storage.publish(url, b"two", replace=True)
    with pytest.raises(InputError, match="another SHA-256"):
        storage.read_marked(url, known.size, known.sha256)


def test_a_fifo_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="not a regular file"):
        Storage().open(str(tmp_path / "pipe"))
    assert Storage().list(str(tmp_path)) == []


def test_json(root: str) -> None:
    storage = Storage()
    url = join(root, "a.json")
    storage.publish_json(url, {"b": [1, 2.5, None], "a": "é"})
    assert storage.read_bytes(url) == b'{\n "a": "\\u00e9",\n "b": [\n  1,\n  2.5,\n  null\n ]\n}\n'
    assert storage.read_json(url) == {"b": [1, 2.5, None], "a": "é"}
    for bad in (b"{", b"\xff\xfe", b"", b"[" * 100_000):
        storage.publish(url, bad, replace=True)
        with pytest.raises(InputError, match=r"a\.json: is not valid JSON"):
            storage.read_json(url)
    with pytest.raises(ValueError, match="JSON"):
        storage.publish_json(url, float("nan"), replace=True)


def test_when_a_file_was_written(root: str) -> None:
    storage = Storage()
    url = join(root, "a.bin")
    storage.publish(url, b"x")
    assert abs(datetime.now(UTC) - storage.modified(url)) < timedelta(hours=1)
    with pytest.raises(MissingFileError):
        storage.modified(join(root, "b.bin"))
