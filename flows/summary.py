"""The event `ecif.corpus.cleaned`: an output is finished as far as it goes, and whoever trains on it may begin.

It is sent when all shards that the run was about are written, but for those whose own data are to blame, and once for
each state of an output: nothing is ever overwritten there, so the counts under one decision tell states apart, and a
marker in the output says which of them have been announced. A run that finds nothing to do announces nothing, and one
that was killed before it could speak is made up for by the next. The marker is written when the server has written the
event down (`flows.notify`), so a server that is away costs no announcement, only time; two runs that end at the same
moment may both speak.

A trigger that wants only outputs without failed shards asks for the label `ecif.failed: "0"`.
"""

from __future__ import annotations

import hashlib
from typing import Any

from prefect.events import Event

from ecif import keys
from ecif.run import Run
from ecif.settings import Settings
from flows import engine, notify
from flows.harmless import harmless
from flows.outcome import Outcome

EVENT = "ecif.corpus.cleaned"
# Seconds that the server has to write the event down; more than its usual five, and not long for a run that is over.
PATIENCE = 30.0


def finished(outcome: Outcome, *, packed: bool) -> bool:
    """Whether nothing is left that another run over the same shards would do.

    Args:
        packed: the survivors go into new shards, which wait for all that can be written.
    """
    stages = ("score",) if packed else ("score", "write")
    to_blame = [item for item in outcome.failed if not item["passing"] and item["stage"] in stages]
    return (
        outcome.decision_key is not None
        and len(to_blame) == len(outcome.failed)
        and outcome.written > 0
        and outcome.written + len(to_blame) >= outcome.shards
    )


def cleaned(outcome: Outcome, prefix: str | None) -> Event:
    """The event that an output is finished.

    Args:
        prefix: what the run was restricted to.
    """
    return Event(
        event=EVENT,
        resource={
            "prefect.resource.id": resource(outcome.out),
            "prefect.resource.name": outcome.out,
            "ecif.failed": str(len(outcome.failed)),
        },
        payload={**state(outcome, prefix), "report": outcome.report, "headline": outcome.headline()},
    )


def resource(out: str) -> str:
    """Id of an output as a resource of events: `ecif.corpus.` and 12 hex digits of the SHA-256 of its URL."""
    return f"ecif.corpus.{hashlib.sha256(out.encode()).hexdigest()[:12]}"


def state(outcome: Outcome, prefix: str | None) -> dict[str, Any]:
    """What tells one state of an output from another: small numbers, and the keys of what decided."""
    numbers = ("shards", "written", "pairs", "kept", "dropped", "quarantined", "unscored")
    return {
        "out": outcome.out,
        "prefix": prefix,
        "score_key": outcome.score_key,
        "decision_key": outcome.decision_key,
        "failed": len(outcome.failed),
        **{name: getattr(outcome, name) for name in numbers},
    }


def announce(outcome: Outcome, prefix: str | None, run: Run) -> bool:
    """Send the event if the output is finished and its state is a new one; whatever fails ends no run.

    Nobody listens to the embedded engine, which ends with this process: there nothing is sent and nothing is marked.

    Returns:
        whether it was sent.
    """
    assert isinstance(run.settings, Settings)
    if not finished(outcome, packed=run.settings.repack is not None) or engine.is_embedded():
        return False
    with harmless(f"the event {EVENT} is not sent; the next run sends it"):
        marker = run.layout.announced(keys.digest(state(outcome, prefix)))
        if run.storage.exists(marker):
            return False
        event = cleaned(outcome, prefix)
        notify.send([event], PATIENCE)
        run.storage.publish_first(marker, event.model_dump_json().encode())
        return True
    return False
