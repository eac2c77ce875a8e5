"""What is said and counted about a group of shards: around its work, once, and never inside the loop over shards.

A group whose result comes from Prefect's cache did nothing and is not counted. An attempt that failed is counted as
such, and its shards when an attempt ends well, so that no shard is counted for two attempts of one task.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect.context import TaskRunContext

from ecif import logs, metrics
from tasks.groups import Group

P = ParamSpec("P")
R = TypeVar("R")


def observed(stage: str, work: Callable[P, R]) -> Callable[P, R]:
    """`work(job, group)`, which returns a `tasks.stages.Result`, with its log lines marked and its numbers recorded."""

    @functools.wraps(work)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        group = next(value for value in (*args, *kwargs.values()) if isinstance(value, Group))
        context = TaskRunContext.get()
        run = context.task_run.flow_run_id if context is not None else None
        with logs.about(run=None if run is None else str(run), stage=stage, group=group.name):
            started = time.monotonic()
            try:
                result = work(*args, **kwargs)
            except Exception as error:
                metrics.record({("ecif_failed_attempts_total", (stage, type(error).__name__)): 1})
                raise
            metrics.record(_totals(stage, group, result, time.monotonic() - started))
            return result

    return inner


def _totals(stage: str, group: Group, result: Any, seconds: float) -> metrics.Totals:
    shards = {shard.name: shard for shard in group.shards}
    done = [(shards[item["shard"]], item) for item in result["done"]]
    statuses: Counter[str] = Counter()
    for _, item in done:
        statuses.update(item.get("statuses", {}))
    return metrics.of_group(
        stage,
        shards=len(done),
        samples=sum(item.get("samples", shard.samples or 0) for shard, item in done),
        size=sum(shard.size for shard, _ in done),
        seconds=seconds,
        failed=Counter("passing" if item["passing"] else "data" for item in result["failed"]),
        statuses=statuses,
    )
