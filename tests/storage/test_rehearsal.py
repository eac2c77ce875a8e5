"""A rehearsal reads like the storage it stands for, keeps what is written to itself, and refuses the same conflicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecif.errors import ConflictError, MissingFileError, UsageError
from ecif.storage import Storage
from ecif.storage.rehearsal import Rehearsal


@pytest.fixture(params=["disk", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path, memory_root: str) -> str:
    """An output with two files."""
    place = str(tmp_path / "out") if request.param == "disk" else memory_root
    storage = Storage()
    storage.publish(f"{place}/b.txt", b"old")
    storage.publish(f"{place}/sub/d.txt", b"below")
    return place


@pytest.fixture
def trial(root: str, tmp_path: Path) -> Rehearsal:
    (tmp_path / "scratch").mkdir()
    return Rehearsal(Storage(), tmp_path / "scratch")


def test_what_is_written_is_found_and_nothing_is_changed(root: str, trial: Rehearsal) -> None:
    before = [(file.url, file.size) for file in Storage().list(root)]
    published = trial.publish(f"{root}/c.txt", b"new")
    trial.publish_json(f"{root}/sub/a.json", {"a": 1})
    with trial.create(f"{root}/a.txt") as writer:
        for _ in range(100):
            writer.write(bytes(10_000))
        writer.finish()
    assert published.size == 3
    assert trial.read_bytes(f"{root}/c.txt") == b"new"
    assert trial.read_json(f"{root}/sub/a.json") == {"a": 1}
    assert trial.info(f"{root}/a.txt").size == 1_000_000
    assert trial.exists(f"{root}/b.txt")
    names = [file.url.removeprefix(root) for file in trial.list(root)]
    assert names == ["/a.txt", "/b.txt", "/c.txt", "/sub/a.json", "/sub/d.txt"]
    assert [file.url.removeprefix(root) for file in trial.list(root, ".txt", recursive=False)] == names[:3]
    written = [(file.url.removeprefix(root), file.size) for file in trial.written()]
    assert written[:2] == [("/a.txt", 1_000_000), ("/c.txt", 3)]
    assert trial.modified(f"{root}/c.txt") >= trial.modified(f"{root}/b.txt").replace(microsecond=0)
    assert [(file.url, file.size) for file in Storage().list(root)] == before
    with pytest.raises(MissingFileError):
        Storage().read_bytes(f"{root}/c.txt")


def test_the_conflicts_are_those_of_the_storage(root: str, trial: Rehearsal) -> None:
    trial.publish(f"{root}/b.txt", b"old")
    assert trial.written() == []
    with pytest.raises(ConflictError):
        trial.publish(f"{root}/b.txt", b"other")
    assert trial.publish_first(f"{root}/b.txt", b"other").size == 3
    assert trial.read_bytes(f"{root}/b.txt") == b"old"
    trial.publish(f"{root}/b.txt", b"replaced", replace=True)
    assert trial.read_bytes(f"{root}/b.txt") == b"replaced"
    trial.publish(f"{root}/x", b"1")
    with pytest.raises(ConflictError):
        trial.publish(f"{root}/x", b"2")
    trial.delete(f"{root}/x")
    assert not trial.exists(f"{root}/x")
    assert [file.url for file in trial.written()] == [f"{root}/b.txt"]
    assert Storage().read_bytes(f"{root}/b.txt") == b"old"


def test_what_the_storage_may_not_do_it_may_not(tmp_path: Path) -> None:
    trial = Rehearsal(Storage(allow=(str(tmp_path / "in"),)), tmp_path)
    with pytest.raises(UsageError, match="not under an allowed prefix"):
        trial.publish(str(tmp_path / "out" / "a"), b"")
    with pytest.raises(UsageError, match="web servers are for reading"):
        Rehearsal(Storage(), tmp_path).publish("https://example.org/a", b"")
