"""What a run does when the shards that arrived are of another kind than those the direction was fitted on.

The direction and the cut of an output never change, so a re-fit goes into a new output beside it, whose name follows
from the scores that have drifted: however often drift is found, there is one re-fit for one direction. People choose
when to read from the new output; nothing does that for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events import emit_event

from ecif.progress import Progress
from ecif.run import Run
from ecif.settings import Settings, saved
from ecif.stability import Drift
from flows import summary

EVENT = "ecif.corpus.drifted"


def respond(found: Drift, sources: Sequence[str], run: Run, progress: Progress) -> str | None:
    """Do what `--on-drift` says.

    A run of a deployment has the re-fit done by another run of it, everybody else by a subflow.

    Args:
        run: whose scores were compared; its settings are those of `clean`.

    Returns:
        the output of the re-fit, None where there is none.
    """
    assert isinstance(run.settings, Settings)
    progress.note(found.headline())
    if not found.drifted or run.settings.on_drift == "ignore":
        return None
    out = run.layout.root
    place = refit_out(out, run.score_key)
    # For people and automations; that it may be lost does no harm, the next arrivals drift like these.
    resource = {"prefect.resource.id": summary.resource(out), "prefect.resource.name": out}
    emit_event(EVENT, resource=resource, payload={"out": out, "refit": place, **found.to_json()})
    if run.settings.on_drift == "ask":
        progress.note(f"fit again: the same command with --out {place}")
        return None
    parameters = {"sources": list(sources), "settings": {**saved(run.settings), "out": place}}
    progress.note(f"fitting again into {place}")
    context = FlowRunContext.get()
    deployment = context.flow_run.deployment_id if context is not None and context.flow_run is not None else None
    if deployment is None:
        _here(parameters)
    else:
        with get_client(sync_client=True) as client:
            key = f"ecif-refit-{hashlib.sha256(place.encode()).hexdigest()[:16]}"
            client.create_flow_run_from_deployment(
                deployment, parameters={**parameters, "prefix": None}, idempotency_key=key, tags=["ecif"]
            )
    return place


def refit_out(out: str, score_key: str) -> str:
    """Where a re-fit goes: beside the output, one place for one set of scores."""
    return f"{out.rstrip('/')}-refit-{score_key[:8]}"


def _here(parameters: dict[str, Any]) -> None:
    from flows.clean import clean  # which calls us

    clean(**parameters)
