"""What is counted about a group: what its result says, once, and nothing that could end it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ecif import logs, metrics
from ecif.errors import StorageError
from ecif.inventory import Shard
from tasks.groups import Group, Job
from tasks.observed import observed

GROUP = Group("a+3", tuple(Shard(name, f"s3://b/{name}.tar", 1000, "e", 10, None, None) for name in "abc"))
JOB = Job({}, (), "f", "s")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "ecif.prom"
    monkeypatch.delenv(metrics.PUSH, raising=False)
    monkeypatch.setenv(metrics.FILE, str(found))
    return found


def _score(job: Job, group: Group) -> dict[str, Any]:
    assert logs.here() == {"stage": "score", "group": "a+3"}
    done = [
        {"shard": "a", "samples": 9, "statuses": {"ok": 8, "no_caption": 1}},
        {"shard": "b"},
    ]
    return {"done": done, "failed": [{"shard": "c", "reason": "is cut", "passing": False}]}


def test_a_group_is_counted_by_what_it_returns(file: Path) -> None:
    assert observed("score", _score)(JOB, group=GROUP) == _counted_alone()
    found = metrics.parse(file.read_text("utf-8"))
    assert found.pop(("ecif_work_seconds_total", ("score",))) >= 0
    assert found == {
        ("ecif_groups_total", ("score",)): 1,
        ("ecif_shards_total", ("score",)): 2,
        ("ecif_samples_total", ("score",)): 19,
        ("ecif_bytes_total", ("score",)): 2000,
        ("ecif_failed_shards_total", ("score", "data")): 1,
        ("ecif_scored_samples_total", ("ok",)): 8,
        ("ecif_scored_samples_total", ("no_caption",)): 1,
    }


def _counted_alone() -> dict[str, Any]:
    with logs.about(stage="score", group="a+3"):
        return _score(JOB, GROUP)


def test_an_attempt_that_fails_is_counted_and_still_fails(file: Path) -> None:
    def fails(job: Job, group: Group) -> dict[str, Any]:
        raise StorageError("does not answer", url="s3://b/a.tar")

    with pytest.raises(StorageError, match="does not answer"):
        observed("write", fails)(JOB, GROUP)
    assert metrics.parse(file.read_text("utf-8")) == {("ecif_failed_attempts_total", ("write", "StorageError")): 1}
    assert logs.here() == {}


def test_numbers_that_cannot_be_written_change_no_result(file: Path) -> None:
    file.mkdir()
    assert observed("score", _score)(JOB, GROUP) == _counted_alone()
