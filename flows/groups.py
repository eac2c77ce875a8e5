"""What the deployments `fit-group`, `score-group`, `write-group` and `pack-group` run: one group of one stage.

The parameters name files that a parent has written (`flows.fanout.plan`), and nothing more: no shard, no setting, no
secret. Credentials and the allowed prefixes come from the worker's environment, so a run reads and writes nothing that
the worker may not, whoever created it. It ends without having done anything when its group is not wanted any more, and
after its shard when that happens meanwhile; its report is the last thing it writes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, cast

from prefect import Task, flow
from prefect.states import Completed
from pydantic import Field

from ecif.errors import EcifError, InputError, StorageError
from ecif.layout import Layout
from ecif.settings import StorageSettings
from flows.fanout.plan import Fan
from flows.parameters import Out, public
from tasks import ambient, stages
from tasks.groups import Group, Job
from tasks.stages import Result

SECONDS_PER_LOOK = 15.0

Number = Annotated[int, Field(ge=0)]
Attempt = Annotated[int, Field(ge=1)]


@flow(name="fit-group", description="Partial sums of the fit for one group of shards. Started by `clean` and `fit`.")
def fit_group(out: Out, fan_key: str, number: Number, attempt: Attempt = 1) -> dict[str, Any]:
    """Map of the fit.

    Args:
        out: the output that is worked on: a directory or an object-storage prefix.
        fan_key: key of the fan-out, a directory of _ecif/fan.
        number: number of the group in the fan-out.
        attempt: how often the group has been sent, with this time.

    Returns:
        {"done", "failed"}: numbers of shards.
    """
    return work(stages.fit_group, out, fan_key, number, attempt)


@flow(name="score-group", description="Scores of one group of shards. Started by `clean`.")
def score_group(out: Out, fan_key: str, number: Number, attempt: Attempt = 1) -> dict[str, Any]:
    """Scores.

    Args:
        out: the output that is worked on: a directory or an object-storage prefix.
        fan_key: key of the fan-out, a directory of _ecif/fan.
        number: number of the group in the fan-out.
        attempt: how often the group has been sent, with this time.

    Returns:
        {"done", "failed"}: numbers of shards.
    """
    return work(stages.score_group, out, fan_key, number, attempt)


@flow(name="write-group", description="Cleaned shards of one group. Started by `clean`.")
def write_group(out: Out, fan_key: str, number: Number, attempt: Attempt = 1) -> dict[str, Any]:
    """Cleaned shards.

    Args:
        out: the output that is worked on: a directory or an object-storage prefix.
        fan_key: key of the fan-out, a directory of _ecif/fan.
        number: number of the group in the fan-out.
        attempt: how often the group has been sent, with this time.

    Returns:
        {"done", "failed"}: numbers of shards.
    """
    return work(stages.write_group, out, fan_key, number, attempt)


@flow(name="pack-group", description="Packed shards of one group. Started by `clean` with `repack`.")
def pack_group(out: Out, fan_key: str, number: Number, attempt: Attempt = 1) -> dict[str, Any]:
    """Packed shards.

    Args:
        out: the output that is worked on: a directory or an object-storage prefix.
        fan_key: key of the fan-out, a directory of _ecif/fan.
        number: number of the group in the fan-out.
        attempt: how often the group has been sent, with this time.

    Returns:
        {"done", "failed"}: numbers of shards.
    """
    return work(stages.pack_group, out, fan_key, number, attempt)


def work(group_task: Task[..., Result], out: str, fan_key: str, number: int, attempt: int) -> dict[str, Any]:
    """Take a group through a stage and report.

    Returns:
        {"done", "failed"}: numbers of shards.

    Raises:
        EcifError: the request is wrong, or the worker may not do it. The report says so, where it can be written.
    """
    # A deployment has no caller that made an ambient; the task must share one all the same.
    with ambient.during(ambient.current()) as here:
        storage = StorageSettings().storage()
        fan = Fan(fan_key, Layout(storage.check(Layout(out).root, write=True)), storage)
        found = fan.work(number)
        if found is None:
            return _withdrawn()
        job, group = _own(*found, fan, number)
        try:
            with _while_wanted(fan, number, here.stop):
                # What Prefect has cached says nothing about the outputs, and they are looked at anyway.
                result = group_task.with_options(refresh_cache=True)(job, _ordered(group, attempt))
        except EcifError as error:
            if here.stop.is_set():
                return _withdrawn()
            fan.report(number, attempt, {"result": None, "refused": (str(error), not isinstance(error, InputError))})
            raise
        if here.stop.is_set():
            return _withdrawn()
        fan.report(number, attempt, {"result": result, "refused": None})
    counts = {"done": len(result["done"]), "failed": len(result["failed"])}
    if not result["failed"]:
        return counts
    return cast(dict[str, Any], Completed(name="ShardsFailed", message=result["failed"][0]["reason"], data=counts))


def _own(job: Job, group: Group, fan: Fan, number: int) -> tuple[Job, Group]:
    """The job with settings that this worker has checked itself: a file in an output could hold anything."""
    url = fan.layout.fan_group(fan.key, number)
    try:
        settings = public(job.settings)
    except ValueError as error:
        raise InputError(f"has settings that are not accepted: {error}", url=url) from error
    if fan.storage.check(Layout(settings["out"]).root) != fan.layout.root:
        raise InputError(f"is of another output, {settings['out']}", url=url)
    return replace(job, settings=settings), group


def _ordered(group: Group, attempt: int) -> Group:
    """Every other attempt from the end: one shard that kills its process then keeps no other from being done."""
    return group if attempt % 2 else replace(group, shards=group.shards[::-1])


def _withdrawn() -> dict[str, Any]:
    message = "the group was given up, or somebody else has done it"
    return cast(dict[str, Any], Completed(name="Withdrawn", message=message, data={"done": 0, "failed": 0}))


@contextmanager
def _while_wanted(fan: Fan, number: int, stop: threading.Event) -> Iterator[None]:
    """Set `stop` when the group is not wanted any more."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SECONDS_PER_LOOK):
            try:
                if not fan.wanted(number):
                    stop.set()
                    return
            except StorageError:
                continue  # that the storage is away says nothing

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
