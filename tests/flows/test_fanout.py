"""Fan-out: bounded waves, retries of failed storage, and what a user's mistake does to the rest."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from prefect import flow

from ecif.errors import InputError, ModelError, StorageError
from ecif.inventory import Shard
from flows.fanout import Fanned, fan_out
from tasks import ambient
from tasks.groups import Group, Job
from tasks.stages import RETRIES, Result, stage_task, through
from tests.squares import Notes

JOB = Job({"out": "memory://out"}, (), "fit", "score")


def _shards(count: int, seed: str = "") -> list[Shard]:
    return [Shard(f"{n:03d}", f"memory://in/{n:03d}.tar", n, f"{seed}{n}", 1, None, None) for n in range(count)]


def _fan(name: str, work: Any, shards: list[Shard], made: set[str], size: int = 2, workers: int = 2) -> Fanned:
    """A flow around one fan-out whose tasks call `work(shard)` in the loop that all stages use."""

    @stage_task(name)
    def group_task(job: Job, group: Group) -> Result:
        return through(group.shards, work)

    quick = group_task.with_options(retry_delay_seconds=0.01)

    @flow(name=f"fan-{name}")
    def around() -> Fanned:
        job = replace(JOB, settings={**JOB.settings, "group_size": size})
        return fan_out(quick, job, shards, outputs=lambda: made, workers=workers)

    with ambient.during(ambient.Ambient(Notes())):
        return around()


def test_all_shards_are_worked_on_once_in_few_tasks_at_a_time() -> None:
    made: set[str] = set()
    running, most = 0, 0
    lock = threading.Lock()

    def work(shard: Shard) -> dict[str, Any]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            assert shard.name not in made
            made.add(shard.name)
        with lock:
            running -= 1
        return {"shard": shard.name}

    fanned = _fan("once", work, _shards(9), made, workers=3)
    assert [item["shard"] for item in fanned.done] == [f"{n:03d}" for n in range(9)]
    assert fanned.failed == ()
    assert 1 <= most <= 3


def test_failed_storage_is_tried_again_and_finished_shards_are_not_lost() -> None:
    made: set[str] = set()
    tries: Counter[str] = Counter()

    def work(shard: Shard) -> dict[str, Any]:
        tries[shard.name] += 1
        if shard.name == "001" and tries[shard.name] <= RETRIES:
            raise StorageError("is unreachable", url=shard.url)
        made.add(shard.name)
        return {"shard": shard.name}

    fanned = _fan("outage", work, _shards(4), made)
    assert fanned.failed == ()
    assert {item["shard"] for item in fanned.done} == {"000", "001", "002", "003"}
    assert tries["001"] == RETRIES + 1


def test_storage_that_stays_away_sets_its_shards_aside() -> None:
    made: set[str] = set()
    tries: Counter[str] = Counter()

    def work(shard: Shard) -> dict[str, Any]:
        tries[shard.name] += 1
        if shard.name == "001":
            raise StorageError("is unreachable", url=shard.url)
        made.add(shard.name)
        return {"shard": shard.name}

    fanned = _fan("away", work, _shards(4), made)
    (failure,) = fanned.failed
    assert failure == {"shard": "001", "reason": "memory://in/001.tar: is unreachable", "passing": True}
    assert made == {"000", "002", "003"}
    assert tries["001"] == RETRIES + 1


def test_bad_data_are_not_tried_again() -> None:
    made: set[str] = set()
    tries: Counter[str] = Counter()

    def work(shard: Shard) -> dict[str, Any]:
        tries[shard.name] += 1
        if shard.name == "002":
            raise InputError("is broken", url=shard.url, offset=512)
        made.add(shard.name)
        return {"shard": shard.name}

    fanned = _fan("data", work, _shards(4), made)
    (failure,) = fanned.failed
    assert (failure["shard"], failure["passing"], tries["002"]) == ("002", False, 1)


def test_an_output_that_never_appears_is_a_failure_after_two_attempts() -> None:
    tries: Counter[str] = Counter()

    def work(shard: Shard) -> dict[str, Any]:
        tries[shard.name] += 1
        return {"shard": shard.name}

    fanned = _fan("vanishing", work, _shards(2), {"000"})
    assert [failure["shard"] for failure in fanned.failed] == ["001"]
    assert [item["shard"] for item in fanned.done] == ["000"]
    assert tries == {"000": 1, "001": 2}


def test_a_mistake_in_the_request_ends_everything() -> None:
    tries: Counter[str] = Counter()

    def work(shard: Shard) -> dict[str, Any]:
        tries[shard.name] += 1
        raise ModelError("the model does not load")

    with pytest.raises(ModelError, match="does not load"):
        _fan("mistake", work, _shards(40), set(), size=1, workers=1)
    assert len(tries) < 5


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C does what it does on a terminal: a shell has its background processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_ends_the_wait_and_the_group_after_its_shard() -> None:
    begun: list[str] = []

    def work(shard: Shard) -> dict[str, Any]:
        begun.append(shard.name)
        os.kill(os.getpid(), signal.SIGINT)
        assert ambient.current().stop.wait(60)
        return {"shard": shard.name}

    with pytest.raises(KeyboardInterrupt):
        _fan("interrupted", work, _shards(3), set(), size=3, workers=1)
    assert begun == ["000"]


def test_results_come_from_the_cache_only_for_the_same_input_bytes() -> None:
    tries: Counter[str] = Counter()

    def work(shard: Shard) -> dict[str, Any]:
        tries[shard.etag] += 1
        return {"shard": shard.name}

    everything = {"000", "001"}
    for seed in ("a", "a", "b"):
        fanned = _fan("cached", work, _shards(2, seed), everything)
        assert {item["shard"] for item in fanned.done} == everything
    assert tries == {"a0": 1, "a1": 1, "b0": 1, "b1": 1}
