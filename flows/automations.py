"""The automations that ECIF ships: Prefect's rules "when this happens, or does not, do that", as code.

    ecif: crash zombie runs             a run whose heartbeats end without an end of the run is marked as crashed
    ecif: crash runs that never began   so is one that a worker took and whose process never spoke
    ecif: failed runs                   reports that a run failed, crashed, or set shards aside
    ecif: late runs                     reports that a run waits and no worker takes it

A self-hosted server creates none by itself, and without the first two a killed run is RUNNING for ever: nobody is
told, and whoever waits for it waits. `infra/automations/apply.py` applies them once, the flow `maintenance` every
night. They concern runs with the tag `ecif` only, because a server may be shared, and other people's runs may send
heartbeats less often than ours.

The price of a rule over heartbeats: a run that is alive but cannot reach the server for `SILENCE` is marked as
crashed, too. That costs its display, not its work: the state is in the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from ecif.errors import UsageError

# PREFECT_FLOWS_HEARTBEAT_FREQUENCY of the deployments in prefect.yaml; Prefect's own default is 180.
HEARTBEAT_SECONDS = 60
# Five heartbeats: one that is lost, or a server that restarts, must not end a run.
SILENCE = timedelta(seconds=5 * HEARTBEAT_SECONDS)
# Longer than the deployments' grace for infrastructure: an image may have to be fetched.
STARTUP = timedelta(minutes=30)
LATE = timedelta(minutes=30)

PREFIX = "ecif: "
ZOMBIES, STILLBORN = f"{PREFIX}crash zombie runs", f"{PREFIX}crash runs that never began"
FAILURES, WAITING = f"{PREFIX}failed runs", f"{PREFIX}late runs"

# Tags of the deployments in prefect.yaml: on all of them, and on those whose failure a person should hear of.
TAG, ALERT = "ecif", "ecif-alert"

Change = Literal["created", "updated", "unchanged"]


def shipped(
    notify: UUID | None = None, *, silence: timedelta = SILENCE, startup: timedelta = STARTUP
) -> tuple[AutomationCore, ...]:
    """The automations as they should be.

    Args:
        notify: a notification block of the server's. Without one, what is to be reported shows as an event
            `prefect.automation.triggered`, which other automations can wait for.
        silence: time without a heartbeat after which a run counts as dead; at least 10 s.
        startup: time that a run may take from being handed to a worker until it begins; at least 10 s.
    """
    return (
        _crash(ZOMBIES, "heartbeat", silence, "no heartbeat"),
        _crash(STILLBORN, "Pending", startup, "its process has not begun"),
        AutomationCore(
            name=FAILURES,
            description="A run failed, crashed, or ended with shards set aside.",
            trigger=EventTrigger(
                match=_runs(),
                match_related=_tagged(ALERT),
                expect={
                    "prefect.flow-run.Failed",
                    "prefect.flow-run.Crashed",
                    "prefect.flow-run.TimedOut",
                    "prefect.flow-run.ShardsFailed",
                },
                for_each={"prefect.resource.id"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[_report(notify, "ended as {{ event.event }}")],
        ),
        AutomationCore(
            name=WAITING,
            description=f"A run is late, and for {LATE.total_seconds() / 60:.0f} minutes no worker has taken it.",
            trigger=EventTrigger(
                match=_runs(),
                match_related=_tagged(ALERT),
                after={"prefect.flow-run.Late"},
                expect={"prefect.flow-run.*"},
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=LATE,
            ),
            actions=[_report(notify, "is late: does its work pool have a worker?")],
        ),
    )


def apply(client: SyncPrefectClient, wanted: Sequence[AutomationCore]) -> dict[str, Change]:
    """Make the server's automations those of `wanted`, by name; what is as it should be is not touched.

    An automation that somebody has paused stays paused. Of several with one name one stays.

    Returns:
        what was done, by name.
    """
    changes: dict[str, Change] = {}
    for automation in wanted:
        there = client.read_automations_by_name(automation.name)
        for surplus in there[1:]:
            client.delete_automation(surplus.id)
        if not there:
            client.create_automation(automation)
            changes[automation.name] = "created"
        elif _said(there[0]) == _said(automation):
            changes[automation.name] = "unchanged"
        else:
            _update(client, there[0].id, automation.model_copy(update={"enabled": there[0].enabled}))
            changes[automation.name] = "updated"
    return changes


def notification_block(client: SyncPrefectClient, name: str) -> UUID:
    """The id of a notification block of the server's, by `type/name`, for example `slack-webhook/ecif`.

    Raises:
        UsageError: there is none.
    """
    kind, _, document = name.partition("/")
    if not kind or not document:
        raise UsageError(f"a notification block is named TYPE/NAME, such as slack-webhook/ecif, not {name!r}")
    answer = client.request(
        "POST",
        "/block_documents/filter",
        json={
            "block_documents": {"name": {"any_": [document]}, "is_anonymous": {"eq_": False}},
            "block_types": {"slug": {"any_": [kind]}},
        },
    ).json()
    if not answer:
        raise UsageError(f"the server has no block {name}; create it there, on the page Blocks")
    return UUID(answer[0]["id"])


def _crash(name: str, after: str, within: timedelta, why: str) -> AutomationCore:
    """Mark a run as crashed of which nothing is heard after an event."""
    seconds = f"{within.total_seconds():.0f} s"
    return AutomationCore(
        name=name,
        description=f"After {after}, nothing was heard of a run for {seconds}: its process is gone.",
        trigger=EventTrigger(
            match=_runs(),
            match_related=_tagged(TAG),
            after={f"prefect.flow-run.{after}"},
            # Whatever is heard of the run: its ends have many names, one of them our own (ShardsFailed).
            expect={"prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                name="Crashed",
                message=f"{why} for {seconds}; what is finished is kept, run it again",
            )
        ],
    )


def _runs() -> ResourceSpecification:
    return ResourceSpecification.model_validate({"prefect.resource.id": "prefect.flow-run.*"})


def _tagged(tag: str) -> ResourceSpecification:
    return ResourceSpecification.model_validate(
        {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{tag}"}
    )


def _report(notify: UUID | None, what: str) -> ActionTypes:
    if notify is None:
        return DoNothing()
    # Names only: the message of a state may quote data of a stranger's.
    body = f"Flow run {{{{ flow_run.name }}}} ({{{{ flow_run.id }}}}) {what}. {{{{ flow_run|ui_url }}}}"
    return SendNotification(block_document_id=notify, subject="ECIF", body=body)


def _said(automation: AutomationCore) -> dict[str, Any]:
    """What an automation says, without what the server adds and what people switch."""
    said = _body(automation)
    del said["enabled"]
    # Its sets become lists, in any order.
    said["trigger"] = {name: sorted(v) if isinstance(v, list) else v for name, v in said["trigger"].items()}
    return said


def _body(automation: AutomationCore) -> dict[str, Any]:
    return automation.model_dump(mode="json", include=set(AutomationCore.model_fields) - {"owner_resource"})


def _update(client: SyncPrefectClient, existing: UUID, automation: AutomationCore) -> None:
    # Not the client's `update_automation`: it leaves out what is not set explicitly, the kind of an action included.
    client.request("PUT", "/automations/{id}", path_params={"id": existing}, json=_body(automation))
