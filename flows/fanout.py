"""Send groups of shards through a task, in waves, and believe only the outputs.

Prefect's word that a task is done is not enough: its result may come from the cache of an earlier run whose outputs
somebody has deleted since. So after the wave the outputs are listed once; shards without one, which no task reported
as failed just now, are sent again past the cache; those that still have none are counted as failed.

Few task runs are in flight at any time: Prefect's event queue drops task runs when thousands come in a burst.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from prefect import Task
from prefect.futures import PrefectConcurrentFuture
from prefect.task_runners import ThreadPoolTaskRunner

from ecif.inventory import Shard
from tasks import ambient
from tasks.groups import Group, Job, split
from tasks.stages import Aside, Result

CACHED = "Cached"
SECONDS_PER_LOOK = 0.5


@dataclass(frozen=True, slots=True)
class Fanned:
    """What came of it: the small results of the shards done now, and the shards that failed."""

    done: tuple[dict[str, Any], ...]
    failed: tuple[Aside, ...]


def fan_out(
    group_task: Task[..., Result],
    job: Job,
    shards: Sequence[Shard],
    *,
    outputs: Callable[[], AbstractSet[str]],
    size: int,
    workers: int,
    advanced: Callable[[int], None] = lambda finished: None,
    bear: Callable[[Mapping[str, str]], None] = lambda failed: None,
) -> Fanned:
    """Run `group_task(job, group)` for all shards.

    Args:
        outputs: names of the shards whose output exists: one listing.
        size: shards per group.
        workers: groups at the same time.
        advanced: called with the number of shards that are through, after each group.
        bear: called with the reasons of the shards that failed, after each group; may raise to end it all.

    Raises:
        EcifError: the request itself is wrong; groups already running end after their current shard.
    """
    done: dict[str, dict[str, Any]] = {}
    failed: dict[str, Aside] = {}
    left = list(shards)
    for fresh in (False, True):
        through = len(shards) - len(left)

        def landed(group: Group, result: Result, cached: bool) -> None:
            nonlocal through
            done.update({item["shard"]: item for item in result["done"]})
            if not cached:
                failed.update({item["shard"]: item for item in result["failed"]})
            through += len(group.shards)
            advanced(through)
            bear({name: item["reason"] for name, item in failed.items()})

        _wave(group_task, job, split(left, size), workers, fresh, landed)
        present = outputs()
        left = [shard for shard in shards if shard.name not in present and shard.name not in failed]
        if not left:
            break
        for shard in left:
            done.pop(shard.name, None)
        if not fresh:
            ambient.current().progress.note(
                f"{len(left):,} shards have a result in Prefect's cache but no output in --out: made again"
            )
    for shard in left:
        reason = "its output did not appear, although its task ended well twice; is something deleting files in --out?"
        failed[shard.name] = {"shard": shard.name, "reason": reason, "passing": True}
    return Fanned(tuple(done.values()), tuple(failed[name] for name in sorted(failed)))


def _wave(
    group_task: Task[..., Result],
    job: Job,
    groups: Iterable[Group],
    workers: int,
    fresh: bool,
    landed: Callable[[Group, Result, bool], None],
) -> None:
    """Call `landed(group, result, whether it came from the cache)` in the order of the groups."""
    chosen = group_task.with_options(refresh_cache=True) if fresh else group_task
    flying: deque[tuple[Group, PrefectConcurrentFuture[Any]]] = deque()

    def land() -> None:
        group, future = flying.popleft()
        over = threading.Event()
        future.add_done_callback(lambda _: over.set())
        # In turns: where another thread receives the signal, Ctrl-C does not end a wait without a limit.
        while not over.wait(SECONDS_PER_LOOK):
            pass
        result = future.result()  # raises what the task raised
        landed(group, result, future.state.name == CACHED)

    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=workers)
    with runner:
        try:
            for group in groups:
                flying.append((group, runner.submit(chosen, {"job": job, "group": group})))
                if len(flying) > workers:
                    land()
            while flying:
                land()
        except BaseException:
            # Leaving the block waits for the groups that are running; this makes them end after their shard.
            ambient.current().stop.set()
            raise
