"""Fan-out by runs of a deployment: what is sent, what is noticed, and what is believed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow, Task, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Running

from ecif.errors import InputError, ModelError, TooManyFailedError, UsageError
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.storage import Storage
from flows.fanout import Fanned, children, fan_out
from flows.fanout.plan import Fan
from flows.groups import work as work_through
from tasks import ambient
from tasks.groups import Group, Job
from tasks.stages import Result, stage_task, through
from tests.flows.standin import Killed, Worker
from tests.squares import Notes


@dataclass
class Field:
    """A stage `probe` whose output is a file per shard.

    Attributes:
        harm: called before the output of a shard is made; may raise.
        tries: how often each shard was begun.
    """

    root: Path
    harm: Callable[[Shard], object] = lambda shard: None
    tries: Counter[str] = field(default_factory=Counter)
    notes: Notes = field(default_factory=Notes)
    settings: dict[str, Any] = field(default_factory=dict)

    def job(self) -> Job:
        quick = {"out": str(self.root), "fan_out": "deployment", "group_size": 2, "max_groups": 2}
        return Job({**quick, **self.settings}, (), "fit", "score")

    def made(self) -> set[str]:
        return {path.stem for path in self.root.glob("*.out")}

    def stage(self) -> Task[..., Result]:
        @stage_task("probe")
        def probe(job: Job, group: Group) -> Result:
            def work(shard: Shard) -> dict[str, Any]:
                self.tries[shard.name] += 1
                if shard.name not in self.made():
                    self.harm(shard)
                    (self.root / f"{shard.name}.out").touch()
                return {"shard": shard.name}

            return through(group.shards, work)

        return probe

    def child(self) -> Flow[..., Any]:
        @flow(name="probe-group")
        def probe_group(out: str, fan_key: str, number: int, attempt: int) -> dict[str, Any]:
            return work_through(self.stage(), out, fan_key, number, attempt)

        return probe_group

    def parent(self, shards: int, **more: Any) -> Fanned:
        @flow(name="parent")
        def parent() -> Fanned:
            return fan_out(self.stage(), self.job(), _shards(shards), outputs=self.made, workers=1, **more)

        with ambient.during(ambient.Ambient(self.notes)):
            return parent()

    def files(self) -> list[str]:
        return [str(path.relative_to(self.root)) for path in self.root.rglob("*.json")]

    @contextmanager
    def worker(self, act: Callable[[FlowRun, Callable[[], object]], object] | None = None) -> Iterator[Worker]:
        with Worker(self.child(), act or (lambda run, go: go())).working() as worker:
            yield worker


def _shards(count: int) -> list[Shard]:
    return [Shard(f"{n:03d}", f"memory://in/{n:03d}.tar", n, f"{n}", 1, None, None) for n in range(count)]


def _attempts(worker: Worker) -> list[tuple[int, int]]:
    return [(run.parameters["number"], run.parameters["attempt"]) for run in worker.runs]


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Field:
    monkeypatch.setattr("flows.fanout.deployment.SHORTEST_PAUSE", 0.05)
    return Field(tmp_path)


def test_every_group_is_a_run_and_nothing_stays_behind(probe: Field) -> None:
    seen: list[int] = []
    with probe.worker() as worker:
        fanned = probe.parent(7, advanced=seen.append, weigh=lambda shard: 10)
        runs = worker.all_runs()
    assert sorted(item["shard"] for item in fanned.done) == [f"{n:03d}" for n in range(7)]
    assert fanned.failed == ()
    assert set(probe.tries.values()) == {1}
    assert _attempts(worker) == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert worker.most <= 2
    assert probe.files() == []
    assert probe.notes.advanced == 70
    assert seen == sorted(seen)
    assert seen[-1] == 7
    tags = {tag for run in runs for tag in run.tags}
    assert len(tags) == 3
    assert "ecif" in tags
    assert all(run.parent_task_run_id for run in runs)
    assert {run.state_name for run in runs} == {"Completed"}


def test_a_run_that_dies_without_a_word_is_sent_again(probe: Field) -> None:
    def act(run: FlowRun, go: Callable[[], object]) -> None:
        if run.parameters["number"] == 1 and run.parameters["attempt"] < 3:
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(run.id, Crashed(message="the node went away"), force=True)
        else:
            go()

    with probe.worker(act) as worker:
        fanned = probe.parent(4)
    assert fanned.failed == ()
    assert len(fanned.done) == 4
    assert sorted(_attempts(worker)) == [(0, 1), (1, 1), (1, 2), (1, 3)]
    assert sum("the node went away" in note for note in probe.notes.notes) == 2


def test_a_shard_that_kills_its_process_takes_no_other_with_it(probe: Field) -> None:
    def harm(shard: Shard) -> None:
        if shard.name == "002":
            raise Killed

    probe.harm, probe.settings = harm, {"group_size": 5, "group_attempts": 2}
    with probe.worker():
        fanned = probe.parent(5)
    (failure,) = fanned.failed
    assert (failure["shard"], failure["passing"]) == ("002", True)
    assert "sent 2 times" in failure["reason"]
    assert probe.made() == {"000", "001", "003", "004"}
    assert probe.files() == []


def test_bad_data_are_reported_and_not_sent_again(probe: Field) -> None:
    def harm(shard: Shard) -> None:
        if shard.name == "001":
            raise InputError("is broken", url=shard.url)

    probe.harm = harm
    borne: list[dict[str, str]] = []
    with probe.worker() as worker:
        fanned = probe.parent(4, bear=lambda failed: borne.append(dict(failed)))
    assert [(item["shard"], item["passing"]) for item in fanned.failed] == [("001", False)]
    assert _attempts(worker) == [(0, 1), (1, 1)]
    assert borne[-1] == {"001": "memory://in/001.tar: is broken"}


def test_a_request_that_every_run_refuses_ends_everything(probe: Field) -> None:
    def harm(shard: Shard) -> None:
        raise ModelError("the model does not load")

    probe.harm, probe.settings = harm, {"group_attempts": 2}
    with probe.worker() as worker, pytest.raises(UsageError, match=r"does not load .*2 runs"):
        probe.parent(40)
    assert len(worker.runs) <= 4
    assert probe.files() == []


def test_a_run_that_shows_no_sign_of_life_is_given_up_and_its_late_report_counts(probe: Field) -> None:
    release = threading.Event()
    held: list[FlowRun] = []

    def act(run: FlowRun, go: Callable[[], object]) -> None:
        if run.parameters["number"] == 0 and run.parameters["attempt"] == 1:
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(run.id, Running(), force=True)
            held.append(run)
        elif run.parameters["attempt"] == 2:
            # The one that was given up ends after all, and this one never begins.
            work_through(probe.stage(), **held[0].parameters)
            release.set()
        else:
            go()

    probe.settings = {"group_timeout": 1.0}
    with probe.worker(act) as worker:
        fanned = probe.parent(4)
        states = {(run.parameters["number"], run.parameters["attempt"]): run.state_type for run in worker.all_runs()}
    assert release.is_set()
    assert fanned.failed == ()
    assert len(fanned.done) == 4
    assert set(probe.tries.values()) == {1}
    assert states[0, 1] is StateType.CANCELLING
    assert states[0, 2] is StateType.CANCELLED
    assert any("no sign of life" in note for note in probe.notes.notes)


def test_a_database_that_forgets_its_runs_loses_nothing(probe: Field) -> None:
    def act(run: FlowRun, go: Callable[[], object]) -> None:
        if run.parameters["attempt"] == 1:
            with get_client(sync_client=True) as client:
                client.delete_flow_run(run.id)
        else:
            go()

    with probe.worker(act) as worker:
        fanned = probe.parent(2)
    assert fanned.failed == ()
    assert len(fanned.done) == 2
    assert _attempts(worker) == [(0, 1), (0, 2)]


def test_outputs_count_when_nobody_has_reported(probe: Field) -> None:
    def act(run: FlowRun, go: Callable[[], object]) -> None:
        for shard in _shards(2):
            (probe.root / f"{shard.name}.out").touch()
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run.id, Crashed(), force=True)

    with probe.worker(act) as worker:
        fanned = probe.parent(2)
    assert fanned.failed == ()
    assert _attempts(worker) == [(0, 1)]


def test_too_many_failures_cancel_the_children_and_withdraw_their_work(probe: Field) -> None:
    def bear(failed: object) -> None:
        raise TooManyFailedError("stopped")

    def act(run: FlowRun, go: Callable[[], object]) -> None:
        if run.parameters["number"] == 0:
            go()

    probe.settings = {"max_groups": 4}
    with probe.worker(act) as worker:
        with pytest.raises(TooManyFailedError):
            probe.parent(8, bear=bear)
        while StateType.RUNNING in (states := Counter(run.state_type for run in worker.all_runs())):
            time.sleep(0.05)
        late: Any = probe.child()(**worker.runs[0].parameters, return_state=True)
    assert states == {StateType.COMPLETED: 1, StateType.CANCELLED: 3}
    assert probe.files() == []
    assert late.name == "Withdrawn"
    assert set(probe.tries) == {"000", "001"}


def test_a_parent_waits_for_what_an_earlier_one_has_sent(probe: Field) -> None:
    storage, layout, shards = Storage(), Layout(str(probe.root)), _shards(6)
    dead = Fan.new("probe", probe.job(), layout, storage, "a-parent-that-was-killed")
    dead.hand_out(5, probe.job(), Group("its group", tuple(shards[2:4])))
    dead.hand_out(6, probe.job(), Group("not sent", tuple(shards[4:6])))

    def once_adopted(run: FlowRun, go: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while run.parameters["number"] == 5 and time.monotonic() < deadline:
            with get_client(sync_client=True) as client:
                tags = client.read_flow_run(run.id).tags
            if sum(tag.startswith("ecif-parent-") for tag in tags) == 2:
                break
            time.sleep(0.05)
        go()

    with probe.worker(once_adopted) as worker:
        parameters = {"out": str(probe.root), "fan_key": dead.key, "number": 5, "attempt": 2}
        children.submit("probe-group/probe-group", parameters, dead.key, "orphan")
        fanned = probe.parent(6)
        tags = [run.tags for run in worker.all_runs() if run.parameters["fan_key"] == dead.key]
    assert fanned.failed == ()
    assert len(fanned.done) == 6
    assert set(probe.tries.values()) == {1}
    assert sorted(_attempts(worker)) == [(0, 1), (1, 1), (5, 2)]
    assert sum(tag.startswith("ecif-parent-") for tag in tags[0]) == 2
    assert probe.files() == []


def test_cancelling_a_parent_reaches_its_children(probe: Field) -> None:
    sent: list[FlowRun] = []

    @flow(name="parent", on_crashed=[children.cancel_children])
    def parent() -> None:
        fan = Fan.new("probe", probe.job(), Layout(str(probe.root)), Storage(), children.parent_id())
        for number in range(3):
            parameters = {"out": str(probe.root), "fan_key": fan.key, "number": number, "attempt": 1}
            children.submit("probe-group/probe-group", parameters, fan.key, "child")
        raise Killed

    with probe.worker(lambda run, go: sent.append(run)) as worker:
        with pytest.raises(Killed):
            parent()
        states = {run.state_type for run in worker.all_runs()}
    assert states == {StateType.CANCELLED}


def test_without_a_server_or_the_deployment_it_says_what_to_do(probe: Field) -> None:
    with pytest.raises(UsageError, match=r"probe-group/probe-group.*prefect deploy --all"):
        probe.parent(2)
    assert probe.files() == []


def test_a_server_that_stops_answering_is_waited_for(probe: Field) -> None:
    """The address of the API goes dead in the middle, and comes back; a run that reports meanwhile is believed."""
    with probe.worker() as worker:
        real = PREFECT_API_URL.value()
        assert real
        asked: list[str] = []
        look = children.look

        def flaky(ids: Any) -> Any:
            if 2 <= len(asked) < 12:
                asked.append("dead")
                with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
                    return look(ids)
            asked.append("real")
            return look(ids)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("flows.fanout.children.look", flaky)
            fanned = probe.parent(6)
    assert fanned.failed == ()
    assert len(fanned.done) == 6
    assert asked.count("dead") > 1
    assert sum("no answer, waiting" in note for note in probe.notes.notes) == 1
    assert set(probe.tries.values()) == {1}
    assert len(worker.runs) == 3


def test_two_parents_at_once_do_no_harm(probe: Field) -> None:
    other = replace(probe, notes=Notes())
    found: list[Fanned] = []
    with probe.worker():
        threads = [
            threading.Thread(target=copy_context().run, args=(lambda one=one: found.append(one.parent(4)),))
            for one in (probe, other)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [one.failed for one in found] == [(), ()]
    assert probe.made() == {"000", "001", "002", "003"}
    assert probe.files() == []
