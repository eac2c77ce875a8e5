"""Scenes in which groups of shards are runs of their own on other machines: the back end `deployment`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling

from bench.places import differing
from bench.scenes import SHARDS, Recovered, Stage, completed, itself, play
from tests.integration.faultproxy import Meanwhile, Rule
from tests.integration.field import wait
from tests.integration.machine import Machine

GROUPS: dict[str, Any] = {"fan_out": "deployment", "group_size": SHARDS // 2, "max_groups": 2, "group_timeout": 60.0}


def group_lost(stage: Stage) -> Recovered:
    """The machine that works on a group is gone without a word; another one is there."""

    def strike(stage: Stage, machine: Machine) -> None:
        machine.kill()
        stage.worker("gpu", limit=1)

    return play(stage, strike, itself, **GROUPS)


def parent_lost(stage: Stage) -> Recovered:
    """The machine of the run that hands out is gone; its groups go on."""

    def strike(stage: Stage, machine: Machine) -> None:
        stage.orchestra.workers[0].kill()

    def go_on(stage: Stage, run: UUID) -> str:
        stage.worker()
        following = stage.start(**GROUPS)
        began = time.monotonic()
        wait(stage.orchestra, following, seconds=600, until="RUNNING")
        waited = time.monotonic() - began
        completed(wait(stage.orchestra, following, seconds=400))
        return f"the next run, after {waited:.0f} s, which waited for the groups under way"

    return play(stage, strike, go_on, **GROUPS)


def groups_cancelled(stage: Stage) -> Recovered:
    """A person cancels the run that hands out; its groups must end, too."""

    def strike(stage: Stage, machine: Machine) -> None:
        (parent,) = (run for run in stage.orchestra.under_way() if "ecif-group" not in run.tags and run.deployment_id)
        with stage.orchestra.client() as client:
            client.set_flow_run_state(parent.id, Cancelling())

    def go_on(stage: Stage, run: UUID) -> str:
        began = time.monotonic()
        ended = wait(stage.orchestra, run)
        if ended.state is None or ended.state.type is not StateType.CANCELLED:
            raise RuntimeError(f"a cancelled run ended as {ended.state!r}")
        while stage.orchestra.under_way():
            time.sleep(0.5)
        until = time.monotonic() - began
        completed(wait(stage.orchestra, stage.start(**GROUPS), seconds=400))
        return f"run and groups had ended after {until:.0f} s; then the next run"

    return play(stage, strike, go_on, **GROUPS)


def group_always_fails(stage: Stage) -> Recovered:
    """One shard kills the process that scores it, every time; its group is sent twice, and given up."""
    fatal = f"{SHARDS - 1:05d}"
    stage.reset()
    stage.worker()
    machine = stage.worker("gpu", limit=1)
    target = f"/{stage.ground.bucket}/out/_ecif/scores/[^/]+/{fatal}.parquet"
    rule = Rule(Meanwhile(machine.kill_children), method="HEAD", target=target)
    stage.ground.proxy.rules.append(rule)
    ended = wait(stage.orchestra, stage.start(**GROUPS, group_attempts=2), seconds=600)
    began = time.monotonic()
    scored = {name for name in stage.ground.times("_ecif/scores/") if name.endswith(".parquet")}
    if ended.state is None or ended.state.name != "ShardsFailed" or len(scored) != SHARDS - 1:
        raise RuntimeError(f"ended as {ended.state!r} with {len(scored)} of {SHARDS - 1} shards scored")
    deaths = rule.hits
    stage.ground.proxy.rules.clear()
    completed(wait(stage.orchestra, stage.start(**GROUPS), seconds=400))
    return Recovered(
        lost=differing(stage.ground.result(), stage.expected),
        repeated=sum(stage.ground.passes().values()) - stage.passes,
        how=f"set aside after {deaths} deaths, all others were scored; the next run, once it was harmless",
        seconds=round(time.monotonic() - began, 1),
    )


GROUP_SCENES: dict[str, Callable[[Stage], Recovered]] = {
    "machine of a group lost": group_lost,
    "machine of the run that hands out lost": parent_lost,
    "run that hands out cancelled": groups_cancelled,
    "a shard kills its process every time": group_always_fails,
}
