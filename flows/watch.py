"""Look whether shards have arrived, and have them cleaned: the guarantee that none is forgotten.

A look asks the storage (`ecif.arrivals`), so a schedule of looks finds whatever an event that got lost would have
said. When something is to be done, one run is started for all of it: of a deployment, where the work belongs to other
machines, or here. Its idempotency key is a digest of what is to be done: as long as that run waits or works, further
looks start nothing. When it has ended and the same shards are still not done (a damaged tar, say), they are tried
again after a pause that doubles with each attempt, up to a day.

The memory of attempts is Prefect's database; when it is emptied, the shards are tried once more at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Annotated, Any

import httpx
from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import Field

from ecif.arrivals import Arrivals, steady
from ecif.errors import StorageError, UsageError
from ecif.progress import Progress
from ecif.settings import Settings, saved
from flows.notify import ServerError, explained, require_server
from flows.parameters import PublicSettings, Sources
from flows.superseded import covers, waiting
from tasks import ambient

CLEANING = "clean/clean-on-arrival"
# The first pause before shards are tried again that a run has not finished, and the longest one.
FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=10), timedelta(days=1)
MOST_ATTEMPTS = 50


@dataclass(frozen=True, slots=True)
class Watched:
    """What a look came to.

    Attributes:
        found, new, unfinished: shards under the sources; those no inventory lists; those begun and not finished.
        prefix: what the run is restricted to; None: nothing, or the whole corpus.
        run: the run that does the work, begun now or before; None when there is nothing to do, or it was done here.
        started: whether this look began it.
        said: all of this, in a sentence.
    """

    out: str
    found: int
    new: int
    unfinished: int
    prefix: str | None
    run: str | None
    started: bool
    said: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


# Descriptions of parameters stand in the docstring: Prefect takes them from there, and from nowhere else.
Seconds = Annotated[float, Field(ge=0)]


@flow(name="watch", description="Look whether shards have arrived, and start a run that cleans them.")
def watch(
    sources: Sources,
    settings: PublicSettings,
    deployment: str | None = CLEANING,
    quiet: Seconds = 30.0,
    longest: Seconds = 600.0,
) -> dict[str, Any]:
    """Compare the sources with what the output holds, and have cleaned what is new or unfinished.

    Args:
        sources: as of the flow clean. Name directories, so that what arrives belongs to them.
        settings: those of the flow clean.
        deployment: FLOW/NAME of the deployment that does the work; none: this run does it.
        quiet: seconds for which nothing may change among the new shards before they are begun.
        longest: seconds after which that is not waited for any more.

    Returns:
        the fields of `Watched`.
    """
    with ambient.during(ambient.current()) as here:
        whole = here.settings(settings)
        found = steady(sources, whole, quiet, longest)
        if deployment is None:
            watched = _clean_here(sources, settings, found)
        else:
            watched = have_cleaned(sources, settings, found, deployment)
    get_run_logger().info(watched.said)
    return watched.to_json()


def run_watch(
    sources: Sequence[str],
    settings: Settings,
    progress: Progress,
    *,
    deployment: str | None,
    quiet: float,
    longest: float,
    every: float | None,
) -> Iterator[Watched]:
    """Look once, or every so many seconds, for the command line; yields what each look came to.

    Where no deployment is named, `clean` runs here, on an engine of its own or the configured server. A storage or a
    server that fails is told, and the next look goes on.

    Raises:
        EcifError: the request is wrong; without `every`, also what fails otherwise.
    """
    if deployment is not None:
        require_server()
    tried: dict[str, tuple[int, float]] = {}
    while True:
        try:
            found = steady(sources, settings, quiet, longest)
            if deployment is not None:
                yield have_cleaned(sources, saved(settings), found, deployment)
            else:
                yield _clean_now(sources, settings, found, progress, tried)
        except (StorageError, ServerError) as error:
            if every is None:
                raise
            progress.note(f"this look failed, the next one goes on: {error}")
        if every is None:
            return
        time.sleep(every)


def have_cleaned(sources: Sequence[str], settings: dict[str, Any], found: Arrivals, deployment: str) -> Watched:
    """Make sure that a run of a deployment does what is to be done.

    Raises:
        UsageError: there is no such deployment. ServerError: the server does not answer.
    """
    if not found.wanted:
        return _watched(found, None, started=False, more="nothing to do")
    try:
        with get_client(sync_client=True) as client:
            return _have_cleaned(client, sources, settings, found, deployment)
    except ObjectNotFound:
        raise UsageError(f"the server has no deployment {deployment!r}; deploy it: prefect deploy --all") from None
    except (PrefectHTTPStatusError, httpx.TransportError) as error:
        raise explained(error) from error


def _have_cleaned(
    client: SyncPrefectClient, sources: Sequence[str], settings: dict[str, Any], found: Arrivals, deployment: str
) -> Watched:
    target = client.read_deployment_by_name(deployment)
    keys = [f"ecif-arrivals-{found.digest()}-{attempt}" for attempt in range(MOST_ATTEMPTS)]
    asked = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=keys))
    runs = [run for run in client.read_flow_runs(flow_run_filter=asked) if run.deployment_id == target.id]
    if working := [run for run in runs if run.state is None or not run.state.is_final()]:
        return _watched(found, str(working[0].id), started=False, more=f"{working[0].name} is at it")
    if (wait := _wait(runs)) > timedelta(0):
        more = f"{len(runs)} runs have not finished them; tried again in {wait.total_seconds():,.0f} s"
        return _watched(found, str(runs[0].id), started=False, more=more)
    parameters = {"sources": list(sources), "settings": settings, "prefix": found.prefix()}
    # Begun for fewer shards, or by an event: it looks when its turn has come, and finds these, too.
    if enough := [run for run in waiting(client, target.id) if covers(run.parameters, parameters)]:
        return _watched(found, str(enough[0].id), started=False, more=f"{enough[0].name} waits for its turn")
    run = client.create_flow_run_from_deployment(
        target.id,
        parameters=parameters,
        idempotency_key=keys[min(len(runs), MOST_ATTEMPTS - 1)],
        tags=["ecif"],
    )
    return _watched(found, str(run.id), started=True, more=f"started {run.name}")


def pause(attempts: int) -> timedelta:
    """How long to wait after so many attempts that did not finish everything."""
    doublings = min(attempts - 1, 30)  # far beyond a day
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2**doublings) if attempts else timedelta(0)


def _wait(runs: Sequence[FlowRun]) -> timedelta:
    ends = [run.end_time.timestamp() for run in runs if run.end_time is not None]
    return pause(len(runs)) - timedelta(seconds=time.time() - max(ends)) if ends else timedelta(0)


def _clean_here(sources: list[str], settings: dict[str, Any], found: Arrivals) -> Watched:
    if not found.wanted:
        return _watched(found, None, started=False, more="nothing to do")
    from flows.clean import clean

    outcome = clean(sources, settings, found.prefix())
    return _watched(
        found, None, started=True, more=f"{outcome['written']:,} are written, {len(outcome['failed'])} failed"
    )


def _clean_now(
    sources: Sequence[str], settings: Settings, found: Arrivals, progress: Progress, tried: dict[str, tuple[int, float]]
) -> Watched:
    if not found.wanted:
        return _watched(found, None, started=False, more="nothing to do")
    attempts, ended = tried.get(found.digest(), (0, 0.0))
    wait = ended + pause(attempts).total_seconds() - time.monotonic() if attempts else 0.0
    if wait > 0:
        more = f"{attempts} runs have not finished them; tried again in {wait:,.0f} s"
        return _watched(found, None, started=False, more=more)
    from flows.clean import run_clean

    try:
        outcome = run_clean(sources, settings, progress)
    finally:
        tried.clear()
        tried[found.digest()] = (attempts + 1, time.monotonic())
    return _watched(found, None, started=True, more=outcome.headline())


def _watched(found: Arrivals, run: str | None, *, started: bool, more: str) -> Watched:
    return Watched(
        out=found.out,
        found=found.found,
        new=len(found.new),
        unfinished=len(found.unfinished),
        prefix=found.prefix(),
        run=run,
        started=started,
        said=f"{found.headline()}: {more}",
    )
