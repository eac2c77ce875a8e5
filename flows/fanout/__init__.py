"""Send groups of shards through a task, here or on other machines, and believe only the outputs.

One function, three back ends, chosen by `--fan-out`: threads of this process (`local`), runs of a deployment in a work
pool (`deployment`), a Dask cluster (`dask`). Whatever they say, the outputs are listed at the end: a shard without one
that nobody reported as failed is sent once more, and then counted as failed; a shard with one is done, also when its
group was given up. That covers results that come from Prefect's cache although somebody has deleted their outputs,
workers that die without a word, and runs that go on after they were given up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefect import Task

from ecif.fields import build
from ecif.inventory import Shard
from ecif.settings import OrchestrationSettings
from flows.fanout import local
from flows.fanout.outputs import Outputs
from flows.fanout.sizing import Sizes
from tasks import ambient
from tasks.groups import Group, Job, split
from tasks.stages import Aside, Result


@dataclass(frozen=True, slots=True)
class Fanned:
    """What came of it: the small results of the shards done now, and the shards that failed."""

    done: tuple[dict[str, Any], ...]
    failed: tuple[Aside, ...]


@dataclass(frozen=True, slots=True)
class Wave:
    """One pass over the shards that are left.

    Attributes:
        workers: groups at the same time.
        landed: called with a group, its result, and whether that came from the cache.
        advanced: called with the number of shards of this pass that are through.
    """

    task: Task[..., Result]
    job: Job
    shards: Sequence[Shard]
    options: OrchestrationSettings
    workers: int
    landed: Callable[[Group, Result, bool], None]
    advanced: Callable[[int], None]

    def sizes(self) -> Sizes:
        """How large its groups are."""
        return Sizes(self.options.group_size, self.options.group_seconds, self.workers, len(self.shards))


def fan_out(
    group_task: Task[..., Result],
    job: Job,
    shards: Sequence[Shard],
    *,
    outputs: Callable[[], AbstractSet[str]],
    workers: int,
    weigh: Callable[[Shard], int] = lambda shard: 1,
    advanced: Callable[[int], None] = lambda finished: None,
    bear: Callable[[Mapping[str, str]], None] = lambda failed: None,
) -> Fanned:
    """Run `group_task(job, group)` for all shards, in groups, where the job's settings say.

    Args:
        outputs: names of the shards whose output exists: one listing.
        workers: groups at the same time, when they are worked on here; elsewhere `--max-groups` counts.
        weigh: what a shard counts in the progress of the stage.
        advanced: called with the number of shards that are through.
        bear: called with the reasons of the shards that failed, after each group; may raise to end it all.

    Raises:
        EcifError: the request itself is wrong; groups already running end after their current shard.
    """
    options = _options(job)
    if options.fan_out != "local":
        workers = options.max_groups
    done: dict[str, dict[str, Any]] = {}
    failed: dict[str, Aside] = {}
    from_cache = 0

    def landed(group: Group, result: Result, cached: bool) -> None:
        nonlocal from_cache
        done.update({item["shard"]: item for item in result["done"]})
        if cached:
            from_cache += len(group.shards)
        else:
            failed.update({item["shard"]: item for item in result["failed"]})
        bear({name: item["reason"] for name, item in failed.items()})

    left = list(shards)
    for again in (False, True):
        before = len(shards) - len(left)
        task = group_task.with_options(refresh_cache=True) if again else group_task
        wave = Wave(task, job, left, options, workers, landed, partial(_advance, advanced, before))
        if options.fan_out == "deployment":
            _through_deployment(wave, outputs, weigh)
        else:
            _through_tasks(wave, weigh, alone=again and not from_cache)
        present = outputs()
        for name in failed.keys() & present:
            del failed[name]  # somebody has made it after all
        left = [shard for shard in shards if shard.name not in present and shard.name not in failed]
        if not left:
            break
        for shard in left:
            done.pop(shard.name, None)
        if not again:
            ambient.current().progress.note(_why_again(len(left), from_cache))
    for shard in left:
        reason = "its output did not appear, although it was worked on twice; is something deleting files in --out?"
        failed[shard.name] = {"shard": shard.name, "reason": reason, "passing": True}
    return Fanned(tuple(done.values()), tuple(failed[name] for name in sorted(failed)))


def _advance(advanced: Callable[[int], None], before: int, through: int) -> None:
    advanced(before + through)


def _through_tasks(wave: Wave, weigh: Callable[[Shard], int], *, alone: bool) -> None:
    """By task runs, in threads here or on Dask. `alone`: each shard by itself, because one may take others with it."""
    sizes = wave.sizes()
    through = 0

    def landed(group: Group, result: Result, cached: bool) -> None:
        nonlocal through
        if not cached:
            sizes.measured(len(result["done"]) + len(result["failed"]), result["seconds"])
        if wave.options.fan_out == "dask":  # whose workers cannot reach the progress of this process
            ambient.current().progress.advance(sum(map(weigh, group.shards)))
        through += len(group.shards)
        wave.advanced(through)
        wave.landed(group, result, cached)

    groups = split(wave.shards, (lambda left: 1) if alone else sizes)
    if wave.options.fan_out == "dask":
        from flows.fanout import dask

        dask.send(wave.options.dask, wave.task, wave.job, groups, workers=wave.workers, landed=landed)
    else:
        local.send(wave.task, wave.job, groups, workers=wave.workers, landed=landed)


def _through_deployment(wave: Wave, listed: Callable[[], AbstractSet[str]], weigh: Callable[[Shard], int]) -> None:
    """By runs of the deployment of the stage, whose progress is the outputs that appear."""
    from flows.fanout import deployment

    def came(shards: Sequence[Shard], through: int) -> None:
        ambient.current().progress.advance(sum(map(weigh, shards)))
        wave.advanced(through)

    outputs = Outputs(listed, wave.shards, came)
    deployment.send(
        wave.task.name,
        wave.job,
        wave.shards,
        options=wave.options,
        sizes=wave.sizes(),
        outputs=outputs,
        landed=lambda group, result: wave.landed(group, result, False),
    )
    outputs.look(fresh=True)


def _options(job: Job) -> OrchestrationSettings:
    known = OrchestrationSettings.model_fields
    return build(OrchestrationSettings, {name: value for name, value in job.settings.items() if name in known})


def _why_again(shards: int, from_cache: int) -> str:
    if from_cache:
        return f"{shards:,} shards have a result in Prefect's cache but no output in --out: made again"
    return f"{shards:,} shards have no output although their groups have ended: made again"
