"""Scenes in which a part of the orchestration dies in the middle of a run, each played to its end.

A scene cleans a small corpus with the deployments of prefect.yaml, strikes when the scores of a certain shard are about
to be written, which is the middle whatever the machine's speed, and goes on until the output is complete. A run that
was left alone says what the output has to be, byte by byte, and how often each shard has to be read for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling

from bench.places import Files, Server, differing, fresh_bucket, remove_bucket
from bench.world import write_model
from flows import automations
from tests.integration.faultproxy import CutRequest, Rule, proxied
from tests.integration.field import Field, asked, start, wait
from tests.integration.machine import Machine
from tests.integration.orchestra import Database, Orchestra, postgres

SHARDS = 8
# Without a heartbeat before a run counts as dead: shorter than shipped, as the heartbeats are.
SILENCE = timedelta(seconds=120)
CLEAN = "clean/clean"
# Schedules that exist and do not interfere.
MONTHLY = dict.fromkeys(("clean", "watch", "maintenance"), "7 3 1 * *")
# The name of a table of scores, and how many of them pass before it strikes.
SCORES, MIDDLE = r"_ecif/scores/[^_].*\.parquet", 3


@dataclass
class Stage:
    """Where the scenes play: server, database, corpus, and what a run that is left alone makes of it.

    Attributes:
        crons: schedules instead of those in prefect.yaml, by deployment.
        expected: the files of the output. passes: over shards, until it was complete. seconds: from start to end.
    """

    orchestra: Orchestra
    database: Database
    ground: Field
    crons: Mapping[str, str]
    expected: Files = field(default_factory=dict, repr=False)
    passes: int = 0
    seconds: float = 0.0
    _workers: int = 0

    def worker(self, pool: str = "cpu", limit: int = 4) -> Machine:
        """A new machine with a worker; nothing is cached on it."""
        self._workers += 1
        return self.orchestra.worker(f"{pool}-{self._workers}", pool, self.ground.environment, limit)

    def start(self, **changed: Any) -> UUID:
        """A run of `clean`, with other settings where given."""
        parameters = {"settings": {**self.ground.settings, **changed}} if changed else {}
        return start(self.orchestra, CLEAN, **parameters)

    def deploy(self) -> None:
        """Deploy; also into a server that has forgotten everything."""
        self.orchestra.deploy(self.ground.declaration(self.crons))
        with self.orchestra.client() as client:
            automations.apply(client, automations.shipped(silence=SILENCE))

    def reset(self) -> None:
        """An empty output, no workers, no runs under way."""
        for worker in self.orchestra.workers:
            worker.kill()
        self.orchestra.workers.clear()
        with self.orchestra.client() as client:
            for run in self.orchestra.under_way():
                client.set_flow_run_state(run.id, Cancelled(), force=True)
        self.ground.proxy.clear()
        self.ground.out.reset({})

    def rehearse(self) -> None:
        """Run once without any event, which says what to expect."""
        self.reset()
        self.worker()
        self.ground.proxy.clear()
        began = time.monotonic()
        run = wait(self.orchestra, start(self.orchestra, CLEAN))
        assert run.state is not None
        if run.state.type is not StateType.COMPLETED:
            raise SystemExit(f"the run that was left alone ended as {run.state!r}")
        self.seconds = time.monotonic() - began
        self.expected, self.passes = self.ground.result(), sum(self.ground.passes().values())


@contextmanager
def staged(folder: Path, server: Server, bucket: str, crons: Mapping[str, str] | None = None) -> Iterator[Stage]:
    """Everything that the scenes need; ended, and the bucket removed, after the block.

    Args:
        crons: schedules instead of those in prefect.yaml, by deployment [default: none comes in between].
    """
    with ExitStack() as until:
        database = until.enter_context(postgres(folder))
        proxy = until.enter_context(proxied(server.endpoint))
        orchestra = Orchestra(folder, database.url)
        until.callback(orchestra.close)
        fresh_bucket(server, bucket)
        until.callback(remove_bucket, server, bucket)
        ground = Field(server, bucket, proxy, write_model(folder / "model"))
        ground.arrive(SHARDS)
        orchestra.start()
        stage = Stage(orchestra, database, ground, MONTHLY if crons is None else crons)
        stage.deploy()
        yield stage


@dataclass(frozen=True, slots=True)
class Recovered:
    """What came of an event.

    Attributes:
        lost: files that are missing, or other than those of a run that was left alone.
        repeated: passes over a shard beyond those of such a run.
        how: by what the work went on.
        seconds: from the event to the complete output.
    """

    lost: list[str]
    repeated: int
    how: str
    seconds: float


def play(
    stage: Stage,
    strike: Callable[[Stage, Machine], object],
    go_on: Callable[[Stage, UUID], str],
    **changed: Any,
) -> Recovered:
    """One scene: a run, an event in the middle of its scoring, and whatever completes the output.

    Args:
        strike: the event; called once with the machine that scores, while the request that publishes a table waits.
        go_on: called after it with the run; returns when the work is complete, and says how it went on.
        changed: settings that differ from those of the run that was left alone; none that change a result.
    """
    stage.reset()
    machine = stage.worker()
    if changed.get("fan_out") == "deployment":
        machine = stage.worker("gpu", limit=1)
    struck = threading.Event()
    moment: list[float] = []

    def event() -> None:
        moment.append(time.monotonic())
        strike(stage, machine)
        struck.set()

    stage.ground.at(event, "PUT", SCORES, skip=MIDDLE)
    run = stage.start(**changed)
    if not struck.wait(240):
        raise TimeoutError(f"the scores were not written: {asked(stage.orchestra, run).state!r}")
    how = go_on(stage, run)
    seconds = time.monotonic() - moment[0]
    return Recovered(
        lost=differing(stage.ground.result(), stage.expected),
        repeated=sum(stage.ground.passes().values()) - stage.passes,
        how=how,
        seconds=round(seconds, 1),
    )


def itself(stage: Stage, run: UUID) -> str:
    """The run goes on by itself."""
    completed(wait(stage.orchestra, run, seconds=400))
    return "the same run went on"


def next_run(stage: Stage, run: UUID) -> str:
    """A new worker, and the run that `watch` or the schedule would start next."""
    stage.worker()
    began = time.monotonic()
    following = stage.start()
    wait(stage.orchestra, following, seconds=600, until="RUNNING")
    waiting = time.monotonic() - began
    completed(wait(stage.orchestra, following, seconds=400))
    return f"the run is {named(stage, run)}; the next one, which could begin after {waiting:.0f} s"


def named(stage: Stage, run: UUID) -> str:
    """The state of a run, or that the server knows of none."""
    try:
        state = asked(stage.orchestra, run).state
    except ObjectNotFound:
        return "unknown"
    return state.name or "?" if state is not None else "?"


def completed(run: FlowRun) -> None:
    """Check that a run ended well."""
    if run.state is None or run.state.type is not StateType.COMPLETED:
        raise RuntimeError(f"{run.name} ended as {run.state!r}")


def worker_killed(stage: Stage) -> Recovered:
    """SIGKILL to the worker's process alone; its runs end when they write to its pipe."""
    return play(stage, lambda stage, machine: machine.kill_process(), next_run)


def machine_lost(stage: Stage) -> Recovered:
    """SIGKILL to the worker and to every process of its runs."""
    return play(stage, lambda stage, machine: machine.kill(), next_run)


def server_restarted(stage: Stage) -> Recovered:
    """SIGKILL to the server, which is started again at once."""

    def go_on(stage: Stage, run: UUID) -> str:
        stage.orchestra.start()
        return itself(stage, run)

    return play(stage, lambda stage, machine: stage.orchestra.kill(), go_on)


def database_wiped(stage: Stage) -> Recovered:
    """The server comes back with an empty database: no run, no deployment, no work pool. The worker lives on."""

    def go_on(stage: Stage, run: UUID) -> str:
        stage.database.wipe()
        stage.orchestra.start()
        stage.deploy()
        return next_run(stage, run)

    return play(stage, lambda stage, machine: stage.orchestra.kill(), go_on)


def storage_away(stage: Stage, seconds: float = 60.0) -> Recovered:
    """Every connection to the storage dies for a minute; a file is asked for 20 s."""
    outage = Rule(CutRequest(0))

    def strike(stage: Stage, machine: Machine) -> None:
        stage.ground.proxy.rules.insert(0, outage)
        threading.Timer(seconds, lambda: stage.ground.proxy.rules.remove(outage)).start()

    return play(stage, strike, itself)


def poisoned(stage: Stage) -> Recovered:
    """One tar is no tar."""
    stage.reset()
    stage.worker()
    stage.ground.raw.put("poison.tar", b"no tar at all" * 999)
    began = time.monotonic()
    try:
        run = wait(stage.orchestra, stage.start())
        seconds = time.monotonic() - began
    finally:
        stage.ground.raw.remove("poison.tar")
    if run.state is None or run.state.name != "ShardsFailed":
        raise RuntimeError(f"a run with a damaged tar ended as {run.state!r}")
    written = stage.ground.times("_ecif/manifest/")
    wanted = {f"_ecif/manifest/{number:05d}.json" for number in range(SHARDS)}
    return Recovered(sorted(wanted ^ set(written)), 0, "set aside; all others are written", round(seconds, 1))


def cancelled(stage: Stage) -> Recovered:
    """A person cancels the run, and lets the next one finish."""

    def strike(stage: Stage, machine: Machine) -> None:
        with stage.orchestra.client() as client:
            for run in stage.orchestra.under_way():
                client.set_flow_run_state(run.id, Cancelling())

    def go_on(stage: Stage, run: UUID) -> str:
        began = time.monotonic()
        ended = wait(stage.orchestra, run)
        if ended.state is None or ended.state.type is not StateType.CANCELLED:
            raise RuntimeError(f"a cancelled run ended as {ended.state!r}")
        return f"cancelled after {time.monotonic() - began:.0f} s; {next_run(stage, run)}"

    return play(stage, strike, go_on)


# By the event as the table names it.
SCENES: dict[str, Callable[[Stage], Recovered]] = {
    "worker process killed": worker_killed,
    "machine lost: worker and runs killed": machine_lost,
    "server killed and started again": server_restarted,
    "database wiped": database_wiped,
    "storage away for a minute": storage_away,
    "one shard is damaged": poisoned,
    "run cancelled": cancelled,
}
