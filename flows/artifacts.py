"""What Prefect shows of a run: a bar per stage, a page with the outcome, the scores, the worst pairs and shards.

Every artifact has a bounded size, however large the corpus is; the whole truth is in the manifests and the report.
What cannot be shown, because the server is away or refuses, is said once and ends no run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from ecif.inventory import Shard
from ecif.report.numbers import Numbers
from ecif.selection import Decision
from ecif.stability import Drift
from flows import pages
from flows.harmless import harmless
from flows.markdown import escaped, link
from flows.outcome import Outcome
from flows.pages import Worst, row

__all__ = ["Worst", "publish", "row", "stage_bar"]

OUTCOME_KEY = "ecif-outcome"
SCORES_KEY = "ecif-scores"
PAIRS_KEY = "ecif-worst-pairs"
SHARDS_KEY = "ecif-shards"
DRIFT_KEY = "ecif-drift"
STAGES_KEY = "ecif-stages"


def progress_key(stage: str) -> str:
    """Key of a stage's progress artifact."""
    return f"ecif-progress-{stage}"


def stage_bar(stage: str) -> Callable[[float], None]:
    """Create the progress artifact of a stage; the returned function takes the share that is done, 0 to 1.

    The server hears of whole percents, so of a hundred changes at most.
    """
    artifact: UUID | None = None
    shown = 0

    def finished(share: float) -> None:
        nonlocal artifact, shown
        percent = int(100 * min(1.0, max(0.0, share)))
        if artifact is not None and percent == shown:
            return
        # Nobody waits for a bar: a server that is away is not asked a second time.
        with harmless("the progress of a stage is not shown"), temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            said = f"stage {stage}: {percent} %"
            if artifact is None:
                made = create_progress_artifact(float(percent), key=progress_key(stage), description=said)
                assert isinstance(made, UUID)
                artifact = made
            else:
                update_progress_artifact(artifact, progress=float(percent), description=said)
            shown = percent

    finished(0.0)
    return finished


def publish(
    outcome: Outcome,
    worst: Worst,
    *,
    inventory: Iterable[Shard] = (),
    decision: Decision | None = None,
    numbers: Numbers | None = None,
    drift: Drift | None = None,
) -> None:
    """Create the artifacts that say what the run came to.

    Args:
        inventory: the shards, for links to their tars.
        decision, numbers: what the report was made from, where there is one.
        drift: of the shards that were scored by this run.
    """
    shown = {item["shard"] for item in [*outcome.failed[: pages.ROWS], *worst.rows()]}
    shown |= {pair.shard for pair in numbers.sets["worst"]} if numbers is not None else set()
    inputs = {shard.name: shard.url for shard in inventory if shard.name in shown}
    of = f"of {escaped(outcome.out)}"
    report = f"; {link('report', outcome.report)}" if outcome.report else ""
    _text(OUTCOME_KEY, lambda: pages.outcome_page(outcome), f"outcome {of}")
    if numbers is not None:
        found = numbers
        _text(SCORES_KEY, lambda: pages.scores(decision, found), f"distribution of the scores {of}{report}")
        _rows(PAIRS_KEY, lambda: pages.pairs(found, outcome.report, inputs), f"worst pairs {of}{report}")
    _rows(
        SHARDS_KEY, lambda: pages.shards(outcome, worst, inputs), f"failed and worst shards {of}, at most {pages.ROWS}"
    )
    if drift is not None:
        arrived = drift
        _text(DRIFT_KEY, lambda: pages.drift(arrived), f"the scores of new shards {of}")
    _rows(STAGES_KEY, lambda: pages.stages(outcome), f"seconds by stage of the last run {of}")


def _text(key: str, make: Callable[[], str], description: str) -> None:
    with harmless(f"{key} is not shown"):
        create_markdown_artifact(make(), key=key, description=description)


def _rows(key: str, make: Callable[[], list[dict[str, Any]]], description: str) -> None:
    with harmless(f"{key} is not shown"):
        create_table_artifact(make(), key=key, description=description)
