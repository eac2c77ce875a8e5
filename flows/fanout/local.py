"""Groups as task runs of a Prefect task runner, a few at a time: threads of this process.

Few task runs are in flight at any time: Prefect's event queue drops task runs when thousands come in a burst.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from prefect import Task
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from tasks import ambient
from tasks.groups import Group, Job
from tasks.stages import Result

CACHED = "Cached"
SECONDS_PER_LOOK = 0.5


def send(
    group_task: Task[..., Result],
    job: Job,
    groups: Iterable[Group],
    *,
    workers: int,
    landed: Callable[[Group, Result, bool], None],
) -> None:
    """Run the task for all groups, `workers` at a time; they are taken one by one, as there is room.

    Args:
        landed: called with each group, its result and whether that came from the cache, in the order of the groups.

    Raises:
        EcifError: the request is wrong. Groups that are running end after their shard.
    """
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=workers)
    with runner:
        wave(runner, group_task, job, groups, workers=workers, landed=landed)


def wave(
    runner: TaskRunner[Any],
    group_task: Task[..., Result],
    job: Job,
    groups: Iterable[Group],
    *,
    workers: int,
    landed: Callable[[Group, Result, bool], None],
    lost: tuple[type[Exception], ...] = (),
) -> None:
    """`send` through a task runner that is running.

    Args:
        lost: exceptions which say that somebody who worked on a group died, and nothing of the group.
    """
    flying: deque[tuple[Group, PrefectFuture[Any]]] = deque()

    def land() -> None:
        group, future = flying.popleft()
        over = threading.Event()
        future.add_done_callback(lambda _: over.set())
        # In turns: where another thread receives the signal, Ctrl-C does not end a wait without a limit.
        while not over.wait(SECONDS_PER_LOOK):
            pass
        try:
            result = future.result()  # raises what the task raised
        except lost as error:
            ambient.current().progress.note(f"group {group.name}: {type(error).__name__}: {error}")
            result = Result(done=[], failed=[], seconds=0.0)
        landed(group, result, future.state.name == CACHED)

    try:
        for group in groups:
            flying.append((group, runner.submit(group_task, {"job": job, "group": group})))
            if len(flying) > workers:
                land()
        while flying:
            land()
    except BaseException:
        # Leaving the runner waits for the groups that are running; this makes them end after their shard.
        ambient.current().stop.set()
        raise
