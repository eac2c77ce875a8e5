"""The tasks: each takes a group of shards through one stage and returns names and small numbers.

Arrays and tables travel through storage only. A task works on whatever outputs are there: those of an earlier
attempt stand, so a retry and a rerun cost only what is missing. Storage that fails is tried again, with growing and
jittered delays; everything else would fail the same way again and is not. The last attempt sets the shards aside
that still fail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.tasks import exponential_backoff
from typing_extensions import TypedDict

from ecif.errors import StorageError
from ecif.fields import build
from ecif.inventory import Shard
from ecif.run import Run
from ecif.settings import WriteSettings
from ecif.stages import loop
from tasks import ambient
from tasks.device import devices, engine_for, lease
from tasks.groups import Group, Job, cache_key
from tasks.observed import observed

if TYPE_CHECKING:
    from ecif.stages.engine import Engine

RETRIES = 3
FIRST_DELAY_SECONDS = 5.0

P = ParamSpec("P")
R = TypeVar("R")


class Aside(TypedDict):
    """A shard that failed. `passing`: another run may succeed, because the data are not to blame."""

    shard: str
    reason: str
    passing: bool


class Result(TypedDict):
    """What a group returns: JSON, because Prefect keeps it. `seconds`: in the loop over the shards."""

    done: list[dict[str, Any]]
    failed: list[Aside]
    seconds: float


def _worth_retrying(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), StorageError)


def stage_task(name: str) -> Callable[[Callable[P, Result]], Task[P, Result]]:
    """The options that all group tasks share. The version in the cache key replaces a hash of the source."""
    options = task(
        name=name,
        task_run_name=name + " {group.name}",
        cache_key_fn=lambda context, parameters: cache_key(name, parameters["job"], parameters["group"]),
        persist_result=True,
        result_serializer="json",
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(FIRST_DELAY_SECONDS),
        retry_jitter_factor=0.5,
        retry_condition_fn=_worth_retrying,
    )
    return lambda work: options(observed(name, work))


def single_task(name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """The options of what a run does once, outside the groups; its files say whether it is done."""
    return task(
        name=name,
        cache_policy=NO_CACHE,
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(FIRST_DELAY_SECONDS),
        retry_jitter_factor=0.5,
        retry_condition_fn=_worth_retrying,
    )


@stage_task("fit")
def fit_group(job: Job, group: Group) -> Result:
    """Map of the fit: one partial sum per shard."""
    from ecif.stages import fit

    run = job.run(group.shards)

    def work(shard: Shard) -> dict[str, Any]:
        fit.map_shard(run, engine, project, shard)
        progress.advance()
        return {"shard": shard.name}

    progress = ambient.current().progress
    with _computing(run) as engine:
        project = fit.load_projection(run, engine)
        return through(group.shards, work)


@stage_task("score")
def score_group(job: Job, group: Group) -> Result:
    """One table of scores per shard."""
    from ecif.stages import score
    from ecif.stages.upcoming import Upcoming

    run = job.run(group.shards)

    def work(shard: Shard) -> dict[str, Any]:
        summary = score.score_shard(run, engine, shard, direction, progress, upcoming)
        numbers = {"samples": summary.samples, "overlap": summary.overlap, "statuses": summary.statuses}
        return {"shard": shard.name, **numbers}

    progress = ambient.current().progress
    with _computing(run) as engine:
        direction = score.load_direction(run, engine)
        with Upcoming(run, engine, group.shards) as upcoming:
            return through(group.shards, work)


@stage_task("write")
def write_group(job: Job, group: Group) -> Result:
    """What is written of each input shard: tar and sidecars, or a table; ledger and manifest always."""
    from ecif.stages.plan import load_decision
    from ecif.stages.write import write_shard

    run = job.run(group.shards)
    decision = load_decision(run.layout, run.storage, job.decision_key)
    form = build(WriteSettings, {name: job.settings[name] for name in WriteSettings.model_fields})
    limits = run.settings.limits()
    progress = ambient.current().progress

    def work(shard: Shard) -> dict[str, Any]:
        manifest = write_shard(shard, decision, run.layout, run.storage, form, limits)
        progress.advance(manifest.samples)
        return {"shard": shard.name, "samples": manifest.samples, "dropped": manifest.dropped}

    return through(group.shards, work)


@stage_task("pack")
def pack_group(job: Job, group: Group) -> Result:
    """Packed shards; those of the group stand for them by name."""
    from ecif import inventory, packmap
    from ecif.stages.pack import pack_shard
    from ecif.stages.plan import load_decision

    run = job.run(())
    layout, storage = run.layout, run.storage
    decision = load_decision(layout, storage, job.decision_key)
    targets = {target.name: target for target in packmap.load(layout, storage).targets()}
    inputs = inventory.load(layout, storage).by_name()
    progress = ambient.current().progress

    def work(shard: Shard) -> dict[str, Any]:
        packed = pack_shard(targets[shard.name], decision, inputs, layout, storage, run.settings.limits())
        progress.advance(packed.samples)
        return {"shard": shard.name, "samples": packed.samples}

    return through(group.shards, work)


@single_task("projection")
def freeze_projection(job: Job, shards: Sequence[Shard]) -> None:
    """Write what all groups of the fit project with."""
    from ecif.stages import fit

    run = job.run(shards)
    with _computing(run) as engine:
        fit.freeze_projection(run, engine, list(shards), ambient.current().progress)


@single_task("reduce")
def reduce_fit(job: Job, shards: Sequence[Shard]) -> None:
    """Reduce of the fit: from the partial sums to the direction, which is written to the output."""
    from ecif.stages import fit

    run = job.run(shards)
    with _computing(run) as engine:
        fit.reduce(run, engine, ambient.current().progress)


@contextmanager
def _computing(run: Run) -> Iterator[Engine]:
    """The run's model on a device that nobody else uses inside the block: whichever of its devices is free first."""
    with lease(devices(run.settings.device)) as device:
        yield engine_for(run, device)


def through(shards: Sequence[Shard], work: Callable[[Shard], dict[str, Any]]) -> Result:
    """Loop over the shards; failed storage ends an attempt unless it is the last.

    Raises:
        StorageError: for Prefect to try the task again.
    """
    here = ambient.current()
    started = time.monotonic()
    worked = loop.over(shards, work, here.progress, here.stop)
    storage = [failure for failure in worked.failed if isinstance(failure.error, StorageError)]
    if storage and not here.stop.is_set() and not _last_attempt():
        here.progress.note(f"storage failed for {len(storage)} shards, trying again soon: {storage[0].reason}")
        raise storage[0].error
    return {
        "done": list(worked.results),
        "failed": [{"shard": f.shard, "reason": f.reason, "passing": f.passing} for f in worked.failed],
        "seconds": round(time.monotonic() - started, 3),
    }


def _last_attempt() -> bool:
    context = TaskRunContext.get()
    return context is None or context.task_run.run_count > context.task.retries
