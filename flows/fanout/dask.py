"""Groups as task runs on a Dask cluster, for those who have one.

Dask starts a group again when its worker dies, up to three times, and then gives up on it; what has no output after
that is sent again by `fan_out`. Workers need this package and credentials in their environment, as those of work pools
do, and reach Prefect's API themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prefect import Task

from ecif.errors import UsageError
from flows.fanout.local import wave
from tasks.groups import Group, Job
from tasks.stages import Result


def send(
    address: str,
    group_task: Task[..., Result],
    job: Job,
    groups: Iterable[Group],
    *,
    workers: int,
    landed: Callable[[Group, Result, bool], None],
) -> None:
    """Run the task for all groups on the cluster of a scheduler; see `flows.fanout.local.send`.

    Args:
        address: of the scheduler, `tcp://host:8786`.

    Raises:
        UsageError: no address, no such cluster, or the packages are not installed.
    """
    if not address:
        raise UsageError("--fan-out dask needs the address of a scheduler: --dask tcp://HOST:8786")
    try:
        from distributed.client import FutureCancelledError
        from distributed.comm.core import CommClosedError
        from distributed.scheduler import KilledWorker
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise UsageError(f"--fan-out dask needs prefect-dask: pip install 'ecif[dask]' ({error})") from error
    runner = DaskTaskRunner(address=address)
    with runner:
        try:
            runner.client  # noqa: B018  # connects
        except OSError as error:
            raise UsageError(f"--dask {address}: no scheduler answers: {error}") from error
        lost = (KilledWorker, FutureCancelledError, CommClosedError)
        wave(runner, group_task, job, groups, workers=workers, landed=landed, lost=lost)
