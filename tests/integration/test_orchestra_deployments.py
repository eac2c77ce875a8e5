"""The shipped deployments on a server with a password, on PostgreSQL, with process workers and Ceph."""

from __future__ import annotations

import json
from functools import partial

import httpx
import pytest
from prefect.client.schemas.objects import StateType

from bench.places import changed
from bench.scenes import CLEAN, SHARDS, Stage, completed
from bench.scenes_groups import GROUPS
from tests.integration.field import eventually, runs_of, start, wait

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def test_the_server_answers_nobody_without_the_password(stage: Stage) -> None:
    for request in (httpx.get, httpx.post):
        assert request(f"{stage.orchestra.api}/flow_runs/filter").status_code == 401


def test_all_deployments_are_there_as_declared(stage: Stage) -> None:
    declared = stage.ground.declaration()["deployments"]
    with stage.orchestra.client() as client:
        found = {deployment.name: deployment for deployment in client.read_deployments(limit=100)}
    assert set(found) == {deployment["name"] for deployment in declared}
    for deployment in declared:
        there = found[deployment["name"]]
        assert there.work_pool_name == deployment["work_pool"]["name"]
        assert set(there.tags) == set(deployment["tags"])
        assert len(there.schedules) == len(deployment.get("schedules", []))
        assert there.concurrency_options is not None or "concurrency_limit" not in deployment


def test_schedules_make_runs(stage: Stage) -> None:
    for deployment in stage.ground.declaration()["deployments"]:
        if deployment.get("schedules"):
            name = deployment["name"]
            (run, *_) = eventually(partial(runs_of, stage.orchestra, name, auto_scheduled=True), name)
            assert run.state is not None
            assert run.state.type is StateType.SCHEDULED


def test_a_run_cleans_and_leaves_no_secret_behind(rehearsed: Stage) -> None:
    run = runs_of(rehearsed.orchestra, "clean", auto_scheduled=False)[-1]
    assert {f"{number:05d}.tar" for number in range(SHARDS)} <= set(rehearsed.expected)
    assert rehearsed.ground.out.leftovers() == 0
    with rehearsed.orchestra.client() as client:
        artifacts = client.request("POST", "/artifacts/filter", json={}).json()
        logs = client.read_logs(limit=200)
    assert {"markdown", "table", "progress"} <= {artifact["type"] for artifact in artifacts}
    told = json.dumps([run.parameters, artifacts, [log.message for log in logs]], default=str)
    assert rehearsed.ground.server.secret not in told


def test_a_second_run_does_nothing(rehearsed: Stage) -> None:
    rehearsed.reset()
    rehearsed.ground.out.reset(rehearsed.expected)
    rehearsed.worker()
    stamps = rehearsed.ground.out.stamps()
    run = wait(rehearsed.orchestra, start(rehearsed.orchestra, CLEAN))
    assert run.state is not None
    assert run.state.type is StateType.COMPLETED
    assert changed(stamps, rehearsed.ground.out.stamps()) == []


def test_groups_on_several_workers_write_the_same_bytes(rehearsed: Stage) -> None:
    rehearsed.reset()
    for pool in ("cpu", "gpu", "gpu"):
        rehearsed.worker(pool, limit=3 if pool == "cpu" else 1)
    ended = wait(rehearsed.orchestra, rehearsed.start(**GROUPS), seconds=500)
    completed(ended)
    assert rehearsed.ground.result() == rehearsed.expected
    for name in ("score-group", "write-group"):
        runs = [run for run in runs_of(rehearsed.orchestra, name) if f"ecif-parent-{ended.id}" in run.tags]
        assert {run.parameters["number"] for run in runs} == {0, 1}
        assert all(set(run.parameters) <= {"out", "fan_key", "number", "attempt"} for run in runs)


def test_fit_and_maintenance_run(rehearsed: Stage) -> None:
    rehearsed.reset()
    rehearsed.worker()
    rehearsed.worker("gpu", limit=1)
    fit, maintenance = (start(rehearsed.orchestra, f"{name}/{name}") for name in ("fit", "maintenance"))
    completed(wait(rehearsed.orchestra, fit))
    completed(wait(rehearsed.orchestra, maintenance))
    made = {name for name in rehearsed.expected if name.startswith(("_ecif/fit/", "_ecif/inventory/"))}
    assert made == set(rehearsed.ground.result())
