"""A run that begins makes those superfluous that wait to do the same.

Events come faster than runs end. Each would leave a run in the queue of a deployment that does one at a time, and all
but the first would find nothing to do. The run that begins looks at the storage only now, so it sees whatever the
waiting ones were started for, and cancels them: however many events came, one run follows. A run that has begun
already is never touched, because shards may have come after its look.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelled

from ecif.arrivals import as_prefix
from ecif.errors import UsageError
from flows.parameters import public

# The runs that are looked at, a page of the server.
MOST = 200


def supersede() -> int:
    """Cancel the runs of this run's deployment that wait for their turn and would do no more than this one.

    Call it before the inventory is taken. Does nothing in a run without a deployment.

    Returns:
        how many runs it cancelled.
    """
    context = FlowRunContext.get()
    own = context.flow_run if context is not None else None
    if own is None or own.deployment_id is None:
        return 0
    with get_client(sync_client=True) as client:
        others = [run for run in waiting(client, own.deployment_id) if run.id != own.id]
        return sum(_cancel(client, run, own) for run in others if covers(own.parameters, run.parameters))


def waiting(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    """The runs of a deployment that wait for their turn; what a schedule has planned for later is not among them."""
    wanted = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime(before_=datetime.now(UTC)),
    )
    return client.read_flow_runs(flow_run_filter=wanted, limit=MOST)


def covers(mine: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Whether a run of `clean` with these parameters does all that one with the other ones would do."""
    try:
        ours, theirs = _asks(mine), _asks(others)
    except (KeyError, TypeError, ValueError, UsageError):
        return False  # one of them will fail by itself
    return ours[:-1] == theirs[:-1] and theirs[-1].startswith(ours[-1])


def _asks(parameters: Mapping[str, Any]) -> tuple[list[str], dict[str, Any], str]:
    """Sources, settings and prefix in one spelling; without a prefix it is empty."""
    prefix = parameters.get("prefix")
    return parameters["sources"], public(parameters["settings"]), "" if prefix is None else as_prefix(prefix)


def _cancel(client: SyncPrefectClient, run: FlowRun, own: FlowRun) -> bool:
    state: State[None] = Cancelled(name="Superseded", message=f"{own.name} began later and does the same")
    try:
        return client.set_flow_run_state(run.id, state).status.value == "ACCEPT"
    except PrefectHTTPStatusError:  # it is gone, or was begun just now
        return False
