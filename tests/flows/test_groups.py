"""A run of a group: what it needs, what it refuses, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ecif.errors import InputError, UsageError
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.storage import Storage
from flows import groups
from flows.fanout.plan import Fan
from flows.groups import work
from tasks import ambient
from tasks.groups import Group, Job
from tasks.stages import Result, stage_task, through
from tests.conftest import Bucket

SHARDS = tuple(Shard(f"{n:03d}", f"memory://in/{n:03d}.tar", n, f"{n}", 1, None, None) for n in range(3))
DONE: list[str] = []


@stage_task("probe")
def probe(job: Job, group: Group) -> Result:
    """Looks at its job as the stages do, and notes the shards."""
    run = job.run(group.shards)
    DONE.clear()

    def one(shard: Shard) -> dict[str, Any]:
        run.storage.check(run.layout.tar(shard.name), write=True)
        DONE.append(shard.name)
        return {"shard": shard.name}

    return through(group.shards, one)


def _fan(root: str, storage: Storage | None = None, **settings: Any) -> Fan:
    job = Job({"out": root, **settings}, (), "fit", "score")
    fan = Fan.new("probe", job, Layout(root), storage or Storage(), "")
    fan.hand_out(0, job, Group("three", SHARDS))
    return fan


def test_a_run_reports_last_and_returns_small_numbers(tmp_path: Path) -> None:
    fan = _fan(str(tmp_path))
    assert work(probe, str(tmp_path), fan.key, 0, 1) == {"done": 3, "failed": 0}
    assert DONE == ["000", "001", "002"]
    assert fan.reports() == {0: [1]}
    report = fan.read(0, 1)
    assert report is not None
    assert report["result"] is not None
    assert [item["shard"] for item in report["result"]["done"]] == DONE
    assert work(probe, str(tmp_path), fan.key, 0, 2) == {"done": 3, "failed": 0}
    assert DONE == ["002", "001", "000"]


def test_a_group_that_is_not_wanted_any_more_is_left_alone(tmp_path: Path) -> None:
    fan = _fan(str(tmp_path))
    DONE.clear()
    fan.end()
    state: Any = work(probe, str(tmp_path), fan.key, 0, 1)
    assert (state.name, state.type.value) == ("Withdrawn", "COMPLETED")
    assert DONE == []
    assert fan.reports() == {}


def test_a_group_that_is_withdrawn_meanwhile_ends_after_its_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "SECONDS_PER_LOOK", 0.01)
    fan = _fan(str(tmp_path))
    begun: list[str] = []

    @stage_task("slow")
    def slow(job: Job, group: Group) -> Result:
        def one(shard: Shard) -> dict[str, Any]:
            begun.append(shard.name)
            fan.end()
            assert ambient.current().stop.wait(60)
            return {"shard": shard.name}

        return through(group.shards, one)

    state: Any = work(slow, str(tmp_path), fan.key, 0, 1)
    assert state.name == "Withdrawn"
    assert begun == ["000"]
    assert fan.reports() == {}


def test_credentials_come_from_the_environment_of_the_worker(
    s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"{s3_bucket.url}/clean"
    storage = Storage(s3_bucket.options)
    fan = _fan(root, storage)
    text = storage.read_bytes(fan.layout.fan_group(fan.key, 0)).decode()
    assert s3_bucket.options["endpoint_url"] not in text
    monkeypatch.setenv("ECIF_STORAGE_OPTIONS", json.dumps(s3_bucket.options))
    assert work(probe, root, fan.key, 0, 1) == {"done": 3, "failed": 0}
    assert fan.reports() == {0: [1]}


def test_a_plan_outside_the_allowed_prefixes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fan = _fan(str(tmp_path / "out"))
    monkeypatch.setenv("ECIF_ALLOW", json.dumps([str(tmp_path / "elsewhere")]))
    DONE.clear()
    with pytest.raises(UsageError, match="not under an allowed prefix"):
        work(probe, str(tmp_path / "out"), fan.key, 0, 1)
    assert (DONE, fan.reports()) == ([], {})


@pytest.mark.parametrize("private", [{"allow": ["/"]}, {"storage_options": {"key": "mine"}}])
def test_a_plan_cannot_widen_what_the_worker_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private: dict[str, Any]
) -> None:
    monkeypatch.setenv("ECIF_ALLOW", json.dumps([str(tmp_path)]))
    fan = _fan(str(tmp_path), **private)
    with pytest.raises(InputError, match="cannot be parameters"):
        work(probe, str(tmp_path), fan.key, 0, 1)


def test_a_plan_of_another_output_is_refused(tmp_path: Path) -> None:
    fan = _fan(str(tmp_path / "a"))
    record = json.loads(Path(fan.layout.fan_group(fan.key, 0)).read_text())
    moved = Layout(str(tmp_path / "b")).fan_group(fan.key, 0)
    Storage().publish_json(moved, record)
    with pytest.raises(InputError, match="is of another output"):
        work(probe, str(tmp_path / "b"), fan.key, 0, 1)


@pytest.mark.parametrize("key", ["../../elsewhere", "probe-0-0", "", "probe-000000000000-00000000000/"])
def test_a_key_is_a_key_and_not_a_path(tmp_path: Path, key: str) -> None:
    with pytest.raises(InputError, match="not the key of a fan-out"):
        work(probe, str(tmp_path), key, 0, 1)


def test_a_request_that_is_wrong_is_reported_and_raised(tmp_path: Path) -> None:
    fan = _fan(str(tmp_path))

    @stage_task("wrong")
    def wrong(job: Job, group: Group) -> Result:
        raise UsageError("no such thing")

    with pytest.raises(UsageError, match="no such thing"):
        work(wrong, str(tmp_path), fan.key, 0, 1)
    assert fan.read(0, 1) == {"result": None, "refused": ("no such thing", True)}


def test_the_parameters_are_described_and_checked() -> None:
    for flow in (groups.fit_group, groups.score_group, groups.write_group, groups.pack_group):
        schema = flow.parameters.model_dump()
        assert all(field["description"] for field in schema["properties"].values())
        assert set(schema["required"]) == {"out", "fan_key", "number"}
        with pytest.raises(Exception, match="attempt"):
            flow.validate_parameters({"out": "o", "fan_key": "k", "number": 0, "attempt": 0})
