"""Fan-out through real deployments, a real server and process workers: the same bytes, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Cancelling

from ecif.settings import saved
from flows.fanout.children import parent_tag
from tests.conftest import MakeTar
from tests.integration.machine import Machine
from tests.integration.orchestra import Orchestra, declaration, tail
from tests.squares import SHARDS, Corpus, files, lay_out
from tests.tiny import write_model

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]

PATIENCE = 400.0
KINDS = (".tar", "ledger", "manifest", "scores")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def orchestra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orchestra]:
    """A server, the shipped deployments, and a worker for each pool."""
    found = Orchestra(tmp_path_factory.mktemp("orchestra"))
    found.start()
    try:
        settings = {"out": "/nowhere", "validation": ["/nowhere.tar"], "model": "m", "pretrained": "p"}
        never = dict.fromkeys(("clean", "watch", "maintenance"), "0 0 1 1 *")
        found.deploy(declaration(["/nowhere"], settings, never))
        for pool in found.pools:
            found.worker(f"worker-{pool}", pool, {})
        yield found
    finally:
        for worker in found.workers:
            print(f"--- {worker.log.name}\n{tail(worker.log, 2000)}")
        found.close()


@pytest.fixture
def corpus(tmp_path: Path, model: tuple[Path, Path], make_tar: MakeTar) -> Corpus:
    found = lay_out(tmp_path, model, make_tar)
    found.values.update(group_size=2, max_groups=2)
    return found


def _command(corpus: Corpus, *more: str) -> list[str]:
    ecif = str(Path(sys.executable).with_name("ecif"))
    return [ecif, "clean", *corpus.sources, *corpus.options(), "--drop", "0.25", "--json", *more]


def _here(corpus: Corpus, orchestra: Orchestra) -> dict[str, bytes]:
    """What a run in threads makes of the corpus."""
    out = str(corpus.raw.parent / "local")
    done = subprocess.run(
        _command(replace(corpus, values=corpus.values | {"out": out}), "--fan-out", "local"),
        env=orchestra.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return _made(Path(out))


def _made(out: Path) -> dict[str, bytes]:
    # The settings beside the scores name the output, which is another one.
    found = {name: data for name, (data, _) in files(out).items() if any(kind in name for kind in KINDS)}
    return {name: data for name, data in found.items() if not name.endswith("_meta.json")}


def _runs(orchestra: Orchestra, tag: str = "ecif-group") -> list[FlowRun]:
    with orchestra.client() as client:
        return client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag])), limit=200)


def _until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.3)
    return found


def _fan_files(corpus: Corpus) -> list[Path]:
    return [*(corpus.out / "_ecif/fan").rglob("*.json")]


def test_groups_in_work_pools_make_the_same_bytes_and_a_killed_one_is_sent_again(
    orchestra: Orchestra, corpus: Corpus
) -> None:
    corpus.values["group_size"] = 4
    expected = _here(corpus, orchestra)
    before = {run.id for run in _runs(orchestra)}
    log = corpus.raw.parent / "parent.log"
    parent = Machine(_command(corpus, "--fan-out", "deployment"), orchestra.environment, log, corpus.raw)
    (victim,) = _until(lambda: [run for run in _scoring(orchestra, before) if run.state_type is StateType.RUNNING][:1])
    assert _kill(victim, orchestra)
    code = parent.process.wait(PATIENCE)
    said = tail(parent.log)
    assert code == 0, said
    assert "attempt 1 of 3" in said
    outcome = json.loads(said[said.index("\n{") :])
    assert (outcome["scored"], outcome["written"], outcome["failed"]) == (SHARDS, SHARDS, [])
    assert _made(corpus.out) == expected
    assert _fan_files(corpus) == []


def test_a_parent_that_was_killed_goes_on_with_the_children_it_has(orchestra: Orchestra, corpus: Corpus) -> None:
    expected = _here(corpus, orchestra)
    before = {run.id for run in _runs(orchestra)}
    log = corpus.raw.parent / "parent.log"
    first = Machine(_command(corpus, "--fan-out", "deployment"), orchestra.environment, log, corpus.raw)

    def under_way() -> bool:
        runs = _scoring(orchestra, before)
        return len(runs) == 2 and not all(run.state is not None and run.state.is_final() for run in runs)

    _until(under_way)
    first.kill()
    again = subprocess.run(
        _command(corpus, "--fan-out", "deployment"),
        env=orchestra.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert again.returncode == 0, again.stderr
    assert _made(corpus.out) == expected
    assert len(_scoring(orchestra, before)) == 2, "groups that were under way were sent again"


def test_cancelling_a_parent_ends_its_children(orchestra: Orchestra, corpus: Corpus) -> None:
    settings = saved(corpus.settings(fan_out="deployment", group_size=1, max_groups=4))
    with orchestra.client() as client:
        deployment = client.read_deployment_by_name("clean/clean")
        parameters = {"sources": corpus.sources, "settings": settings}
        parent = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    tag = parent_tag(str(parent.id))
    _until(lambda: [run for run in _runs(orchestra, tag) if run.state_type is StateType.RUNNING])
    with orchestra.client() as client:
        client.set_flow_run_state(parent.id, Cancelling())

    def ended() -> bool:
        with orchestra.client() as client:
            states = [client.read_flow_run(parent.id).state, *(run.state for run in _runs(orchestra, tag))]
        return all(state is not None and state.is_final() for state in states)

    _until(ended)
    kinds = {run.state_type for run in _runs(orchestra, tag)}
    assert StateType.CANCELLED in kinds
    assert kinds <= {StateType.CANCELLED, StateType.COMPLETED}
    with orchestra.client() as client:
        assert client.read_flow_run(parent.id).state_type is StateType.CANCELLED


def _scoring(orchestra: Orchestra, before: set[UUID]) -> list[FlowRun]:
    """Runs that are not in `before` and score a group."""
    return [run for run in _runs(orchestra) if run.id not in before and run.name.startswith("score")]


def _kill(run: FlowRun, orchestra: Orchestra) -> int:
    """SIGKILL to all processes of a run; how many there were."""
    mark = f"PREFECT__FLOW_RUN_ID={run.id}".encode()
    pids = [
        pid
        for worker in orchestra.workers
        for pid in worker.pids()
        if mark in Path(f"/proc/{pid}/environ").read_bytes()
    ]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return len(pids)
