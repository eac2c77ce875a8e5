"""A file is published whole or not at all, and never over another."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import re
import threading
from pathlib import Path

import pytest

from ecif.errors import ConflictError, StorageError
from ecif.storage import Storage, join


def test_publishing_again(root: str, tmp_path: Path) -> None:
    storage = Storage()
    url = join(root, "out/a.bin")
    first = storage.publish(url, b"same")
    tag = storage.info(url).etag
    (tmp_path / "copy").write_bytes(b"same")
    assert storage.publish(url, b"same") == first == storage.publish(url, tmp_path / "copy")
    assert storage.info(url).etag == tag
    for other in (b"Same", b"", b"same and more", b"sam"):
        with pytest.raises(ConflictError, match=r"a\.bin: exists already with other content"):
            storage.publish(url, other)
    assert storage.read_bytes(url) == b"same"
    storage.publish(url, b"view", replace=True)
    assert storage.read_bytes(url) == b"view"
    storage.delete(url)
    assert not storage.exists(url)


@pytest.mark.parametrize("size", [0, 1, 9 * 2**20 + 1])
def test_publish_a_file(root: str, tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    data = os.urandom(size)
    source.write_bytes(data)
    published = Storage().publish(join(root, "a"), source)
    assert (published.size, published.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert Storage().read_bytes(join(root, "a")) == data
    assert source.read_bytes() == data
    source.write_bytes(b"the caller's again")
    assert Storage().read_bytes(join(root, "a")) == data


class _Breaks(Exception):
    pass


@pytest.mark.parametrize("replace", [False, True])
def test_a_crash_leaves_nothing_under_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: bool) -> None:
    url = str(tmp_path / "out" / "a.bin")
    if replace:
        Storage().publish(url, b"before")
    seen: list[list[str]] = []

    def crash(handle: int) -> None:
        seen.append(sorted(os.listdir(tmp_path / "out")))
        assert [f.url for f in Storage().list(str(tmp_path / "out"))] == [url] * replace
        raise _Breaks

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(StorageError):
        Storage().publish(url, b"x" * 100, replace=replace)
    assert len(seen[0]) == 1 + replace
    assert re.fullmatch(r"\.a\.bin\.[0-9a-f]+\.tmp", seen[0][0])
    assert os.listdir(tmp_path / "out") == ["a.bin"] * replace
    if replace:
        assert Storage().read_bytes(url) == b"before"


def _die_half_way(path: str) -> None:
    os.fsync = lambda handle: os._exit(9)  # type: ignore[assignment]
    Storage().publish(path, b"x" * 100)


def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    url = str(tmp_path / "a.bin")
    writer = multiprocessing.get_context("fork").Process(target=_die_half_way, args=(url,))
    writer.start()
    writer.join()
    assert writer.exitcode == 9
    assert [name.endswith(".tmp") for name in os.listdir(tmp_path)] == [True]
    assert not Storage().exists(url)
    assert Storage().list(str(tmp_path)) == Storage().glob(str(tmp_path / "*")) == []
    Storage().publish(url, b"y" * 100)
    assert [file.url for file in Storage().list(str(tmp_path))] == [url]


def _race(url: str, contents: list[bytes]) -> list[str]:
    """Publish each content from its own thread at the same moment; what came of each."""
    barrier = threading.Barrier(len(contents))
    outcome = [""] * len(contents)

    def write(index: int) -> None:
        barrier.wait()
        try:
            Storage().publish(url, contents[index])
            outcome[index] = "published"
        except ConflictError:
            outcome[index] = "conflict"

    threads = [threading.Thread(target=write, args=(i,)) for i in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


def test_writers_of_the_same_bytes_all_succeed(root: str) -> None:
    for round in range(20):
        assert _race(join(root, f"{round}"), [b"same" * 1000] * 6) == ["published"] * 6
    assert len(Storage().list(root)) == 20


def test_of_writers_of_different_bytes_one_wins(root: str) -> None:
    for round in range(20):
        contents = [bytes([i]) * 1000 for i in range(6)]
        url = join(root, f"{round}")
        outcome = _race(url, contents)
        assert sorted(outcome) == ["conflict"] * 5 + ["published"]
        assert Storage().read_bytes(url) == contents[outcome.index("published")]


def _publish_many(root: str, writer: int, queue: object) -> None:
    outcome = []
    for i in range(30):
        try:
            Storage().publish(f"{root}/{i}", f"{writer}.{i}".encode() * 1000)
            outcome.append((i, "published"))
        except ConflictError:
            outcome.append((i, "conflict"))
    queue.put((writer, outcome))  # type: ignore[attr-defined]


def test_of_processes_with_different_bytes_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    writers = [context.Process(target=_publish_many, args=(str(tmp_path), w, queue)) for w in range(3)]
    for process in writers:
        process.start()
    results = dict(queue.get(timeout=60) for _ in writers)
    for process in writers:
        process.join()
    for i in range(30):
        winners = [writer for writer, outcome in results.items() if outcome[i] == (i, "published")]
        assert len(winners) == 1
        assert (tmp_path / str(i)).read_bytes() == f"{winners[0]}.{i}".encode() * 1000


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    url = str(tmp_path / "a")
    Storage().publish(url, b"one")
    Storage().publish(url, b"one")
    with pytest.raises(ConflictError):
        Storage().publish(url, b"two")
    assert (tmp_path / "a").read_bytes() == b"one"

    def be_late(source: str, target: str) -> None:
        Path(target).write_bytes(b"one")
        refuse(source, target)

    monkeypatch.setattr(os, "link", be_late)
    with pytest.raises(ConflictError):
        Storage().publish(str(tmp_path / "b"), b"two")
    Storage().publish(str(tmp_path / "c"), b"one")
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def test_a_name_of_full_length(tmp_path: Path) -> None:
    url = str(tmp_path / ("é" * 120 + ".tar"))
    Storage().publish(url, b"x")
    assert Storage().read_bytes(url) == b"x"


def test_an_output_that_cannot_be_written(root: str, tmp_path: Path) -> None:
    storage = Storage()
    storage.publish(join(root, "file"), b"x")
    for name in ("file/below", "file/below/deeper"):
        with pytest.raises(StorageError, match=r"below.*cannot write.*--out"):
            storage.publish(join(root, name), b"x")
    with pytest.raises(StorageError, match=r"cannot write"):
        storage.publish("/proc/ecif/x", b"x")


def test_a_directory_has_the_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(ConflictError):
        Storage().publish(str(tmp_path / "a"), b"x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConflictError):
        Storage().publish(str(tmp_path / "link"), b"x")
