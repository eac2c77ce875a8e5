"""What Prefect shows of a run: a page with the outcome, a table of the shards worth a look, a bar per stage.

The table is cut to a bounded number of rows, the failed shards first and then those that lost the most, so that an
artifact stays small however large the corpus is. The whole truth is in the manifests and the report.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.counts import ShardCount
from flows.outcome import Outcome

OUTCOME_KEY = "ecif-outcome"
SHARDS_KEY = "ecif-shards"
ROWS = 200
COLUMNS = ("shard", "state", "samples", "kept", "dropped", "quarantined", "unscored", "reason")
LISTED = 20


def progress_key(stage: str) -> str:
    """Key of a stage's progress artifact."""
    return f"ecif-progress-{stage}"


def stage_bar(stage: str) -> Callable[[float], None]:
    """Create the progress artifact of a stage; the returned function takes the share that is done, 0 to 1."""
    artifact = create_progress_artifact(0.0, key=progress_key(stage), description=f"stage {stage}")
    assert isinstance(artifact, UUID)

    def finished(share: float) -> None:
        update_progress_artifact(artifact, progress=100.0 * min(1.0, share))

    return finished


def row(item: ShardCount) -> dict[str, Any]:
    """A shard's row of the table."""
    return {
        "shard": item.shard,
        "state": "scored" if item.kept is None else "written",
        "samples": item.samples,
        "kept": item.kept,
        "dropped": item.dropped,
        "quarantined": item.quarantined,
        "unscored": item.unscored,
    }


class Worst:
    """The rows of the shards that lost the largest share of their samples, at most `limit` of them."""

    def __init__(self, limit: int = ROWS) -> None:
        self._limit = limit
        self._heap: list[tuple[float, str, dict[str, Any]]] = []

    def add(self, row: dict[str, Any], lost: int, samples: int) -> None:
        """Offer a row; `row["shard"]` names its shard, once."""
        entry = (lost / samples if samples else 1.0, row["shard"], row)
        if len(self._heap) < self._limit:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def rows(self) -> list[dict[str, Any]]:
        """Worst first, equals by name."""
        return [row for _, _, row in sorted(self._heap, key=lambda entry: (-entry[0], entry[1]))]


def publish(outcome: Outcome, worst: Worst) -> None:
    """Create the markdown and the table artifact."""
    create_markdown_artifact(markdown(outcome), key=OUTCOME_KEY, description="outcome of the run")
    create_table_artifact(table(outcome, worst), key=SHARDS_KEY, description=f"failed and worst shards, at most {ROWS}")


def table(outcome: Outcome, worst: Worst) -> list[dict[str, Any]]:
    """At most ROWS rows: failed shards, then those that lost the most."""
    failed = [
        {"shard": item["shard"], "state": f"failed in {item['stage']}", "reason": item["reason"]}
        for item in outcome.failed
    ]
    return [{name: item.get(name) for name in COLUMNS} for item in [*failed, *worst.rows()][:ROWS]]


def markdown(outcome: Outcome) -> str:
    """The outcome as a page."""
    lines = [f"# {_escaped(outcome.out)}", "", f"{outcome.headline()}.", "", "| | |", "|---|---:|"]
    counts = {
        "shards": outcome.shards,
        "pairs": outcome.pairs,
        "shards scored": outcome.scored,
        "shards written": outcome.written,
        "kept": outcome.kept,
        "dropped": outcome.dropped,
        "quarantined": outcome.quarantined,
        "not scored": outcome.unscored,
        "shards failed": len(outcome.failed),
        "missing in brace ranges": outcome.missing,
    }
    lines += [f"| {name} | {count:,} |" for name, count in counts.items()]
    if outcome.statuses:
        lines += ["", "| status | samples |", "|---|---:|"]
        lines += [f"| {status} | {count:,} |" for status, count in sorted(outcome.statuses.items())]
    if outcome.failed:
        lines += ["", "## Set aside", ""]
        for item in outcome.failed[:LISTED]:
            lines.append(f"- {_escaped(item['shard'])} ({item['stage']}): {_escaped(item['reason'])}")
        if len(outcome.failed) > LISTED:
            lines.append(f"- and {len(outcome.failed) - LISTED:,} more")
    lines += ["", f"Scores `{outcome.score_key}`, decision `{outcome.decision_key or 'none'}`."]
    if outcome.report:
        lines.append(f"Report: {_escaped(outcome.report)}")
    lines += ["", "| stage | seconds |", "|---|---:|"]
    lines += [f"| {stage} | {seconds:,.1f} |" for stage, seconds in outcome.seconds.items()]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Names and messages come from the data: they must not become links, tables or HTML."""
    flat = " ".join(text.split())
    # In one pass: the references themselves hold a sign that is to be escaped.
    return "".join(f"&#{ord(sign)};" if sign in "&\\`*_[]<>|#" else sign for sign in flat)
