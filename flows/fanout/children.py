"""The runs of groups, as Prefect's API creates, shows and cancels them: hints, and never the truth.

A server restarts, a database is emptied: a question that is not answered is `Away`, and whoever asks goes on without.
Every call has a client of its own, since one that has been connected once waits a minute for a server that is gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger
from prefect.states import Cancelled, Cancelling

TAG = "ecif"
SECONDS_PER_CALL = 30.0
# A page of the API holds 200 runs.
_PAGE = 200
_UNDER_WAY = [kind for kind in StateType if kind not in TERMINAL_STATES]


class Away(Exception):
    """The API did not answer, or does not know what is asked for."""


@dataclass(frozen=True, slots=True)
class Child:
    """A run of a group, as Prefect sees it.

    Attributes:
        waiting: nobody works on it yet. ended: nobody works on it any more.
        state: name and time of the state: a sign of life when it changes.
        message: what Prefect says about the state.
    """

    id: UUID
    waiting: bool
    ended: bool
    state: str
    message: str


def submit(deployment: str, parameters: dict[str, Any], fan_key: str, name: str) -> Child:
    """Create a run, or find the one that the same group and attempt has.

    Args:
        deployment: "flow/deployment".
        parameters: of the flow, `number` and `attempt` among them.

    Raises:
        Away: it may exist all the same; ask again with the same arguments.
    """
    key = f"{fan_key}-{parameters['number']}-{parameters['attempt']}"
    tags = [TAG, fan_tag(fan_key), parent_tag(parent_id())]
    with _answered():
        run: Any = run_deployment(
            deployment,
            parameters=parameters,
            flow_run_name=f"{name} ({parameters['attempt']})" if parameters["attempt"] > 1 else name,
            timeout=0,
            as_subflow=True,
            tags=tags,
            idempotency_key=key,
        )
    return _child(run)


def look(ids: Collection[UUID]) -> dict[UUID, Child]:
    """The runs that the server knows.

    Raises:
        Away: it does not answer.
    """
    wanted = list(ids)
    with _answered(), _client() as client:
        found = [
            run
            for start in range(0, len(wanted), _PAGE)
            for run in client.read_flow_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=wanted[start : start + _PAGE]))
            )
        ]
    return {run.id: _child(run) for run in found}


def of_fan(fan_key: str) -> dict[tuple[int, int], Child]:
    """The runs of a fan-out that have not ended, by group and attempt; they get this parent's tag.

    Raises:
        Away: see `look`.
    """
    found = {}
    with _answered(), _client() as client:
        for run in _under_way(client, fan_tag(fan_key)):
            client.update_flow_run(run.id, tags=[*run.tags, parent_tag(parent_id())])
            found[int(run.parameters["number"]), int(run.parameters["attempt"])] = _child(run)
    return found


def is_running(run_id: str) -> bool:
    """Whether a flow run is there and has not ended.

    Raises:
        Away: see `look`.
    """
    try:
        found = look([UUID(run_id)])
    except ValueError:  # a parent that was no flow run
        return False
    return any(not child.ended for child in found.values())


def cancel(ids: Collection[UUID]) -> None:
    """Cancel runs, as far as the server answers. Their files are gone, so they end after their shard anyway."""
    for run_id, child in _looked(ids).items():
        if not child.ended:
            with suppress(httpx.HTTPError, PrefectException), _client() as client:
                _cancel(client, run_id, child.waiting)


def cancel_children(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of a parent's cancellation and crash, which Prefect itself does not hand on to its children."""
    cancelled = 0
    with _client() as client:
        for run in _under_way(client, parent_tag(str(flow_run.id))):
            _cancel(client, run.id, _child(run).waiting)
            cancelled += 1
    flow_run_logger(flow_run, flow).info(f"cancelled {cancelled} runs of groups")


def parent_id() -> str:
    """The flow run that this is a part of; empty outside of one."""
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context is not None and context.flow_run is not None else ""


def parent_tag(run_id: str) -> str:
    """Tag of the runs that a parent waits for."""
    return f"ecif-parent-{run_id}"


def fan_tag(fan_key: str) -> str:
    """Tag of the runs of a fan-out."""
    return f"ecif-fan-{fan_key}"


def _client() -> SyncPrefectClient:
    # Any settings of its own keep Prefect from lending the flow's client, which retries for a minute.
    return get_client(sync_client=True, httpx_settings={"timeout": SECONDS_PER_CALL})


def _child(run: FlowRun) -> Child:
    state = run.state
    if state is None:
        return Child(run.id, True, False, "", "")
    waiting = state.type is StateType.SCHEDULED
    return Child(run.id, waiting, state.is_final(), f"{state.name} {state.timestamp}", state.message or "")


def _under_way(client: SyncPrefectClient, tag: str) -> Iterator[FlowRun]:
    wanted = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[tag]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNDER_WAY)),
    )
    offset = 0
    found: list[FlowRun] = []
    # All pages first: cancelling while paging would move the pages.
    while page := client.read_flow_runs(flow_run_filter=wanted, offset=offset, limit=_PAGE):
        found += page
        offset += _PAGE
    yield from found


def _cancel(client: SyncPrefectClient, run_id: UUID, waiting: bool) -> None:
    # What nobody has begun is cancelled at once; what runs is cancelled by its worker.
    client.set_flow_run_state(run_id, Cancelled() if waiting else Cancelling())


def _looked(ids: Collection[UUID]) -> dict[UUID, Child]:
    try:
        return look(ids)
    except Away:
        return {}


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, ObjectNotFound) as error:
        raise Away(f"{type(error).__name__}: {error}") from error
