"""The whole way of the data as one flow: inventory, fit, score, select, write, report, index.

Every stage begins by listing what is there and does only the rest, so a run that was killed goes on where it was,
also with an empty Prefect database. A shard that fails is set aside with its reason and tried again by the next run;
the others go on. Without a policy the flow scores, reports and stops.

The parent holds names, URLs and counts, a few hundred bytes for each shard, and no data.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed

from ecif import drift, logs, metrics
from ecif.arrivals import admit
from ecif.progress import Progress
from ecif.run import open_run
from ecif.settings import Settings, saved
from flows import artifacts, engine, summary
from flows.drift import respond
from flows.environment import LOGGING_CHOSEN
from flows.fanout.children import cancel_children
from flows.harmless import harmless
from flows.outcome import Outcome
from flows.parameters import Prefix, PublicSettings, Sources
from flows.superseded import supersede
from tasks import ambient


def run_clean(sources: Sequence[str], settings: Settings, progress: Progress) -> Outcome:
    """Run the flow `clean` for the command line: on an embedded engine unless a Prefect API is configured.

    Raises:
        EcifError: nothing could be done. Shards that failed are in the outcome instead.
    """
    # The runs' logs go to Prefect's API all the same; the terminal shows `progress`, and an error once.
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).propagate = LOGGING_CHOSEN
    with (
        ambient.during(ambient.Ambient(progress, ambient.private(settings))),
        # A wrong request is refused while the engine starts, and before it is a run in anybody's database.
        engine.running(meanwhile=lambda: _prepare(sources, settings)),
    ):
        return Outcome(**clean(list(sources), saved(settings)))


def _prepare(sources: Sequence[str], settings: Settings) -> None:
    open_run(sources, settings)
    # What the stages need, torch above all, takes seconds to import: they pass while the engine starts.
    import flows.stages  # noqa: F401


@flow(
    name="clean",
    description="Score a corpus of image-text pairs, and write it again without the harmful ones.",
    on_cancellation=[cancel_children],
    on_crashed=[cancel_children],
)
def clean(sources: Sources, settings: PublicSettings, prefix: Prefix | None = None) -> dict[str, Any]:
    """Clean a corpus.

    Args:
        sources: tars, brace ranges, globs, directories or lists of URLs.
        settings: the options of the command "ecif clean"; out, model, pretrained and validation are needed. Credentials
            are not among them: they come from the worker's environment.
        prefix: work only on the shards under this URL, as an event about arrivals names it. It selects among the
            sources and cannot add to them.

    Returns:
        the fields of `flows.outcome.Outcome`.
    """
    # A deployment has no caller that made it; the tasks must share one all the same.
    with ambient.during(ambient.current()) as here, logs.about(run=flow_run.id):
        outcome = _clean(sources, here.settings(settings), prefix, here.progress)
    get_run_logger().info(outcome.headline())
    if not outcome.failed:
        return outcome.to_json()
    # For a returned state callers get its data, so the type is that of the data.
    return cast(dict[str, Any], Completed(name="ShardsFailed", message=outcome.headline(), data=outcome.to_json()))


def _clean(sources: list[str], settings: Settings, prefix: str | None, progress: Progress) -> Outcome:
    from flows.stages import Stages

    if prefix is not None and settings.allow:
        prefix = admit(prefix, settings.allow)  # whoever may send events names it
    # Before the storage is looked at: what waiting runs were started for is seen by this one.
    with harmless("runs that wait to do the same are not cancelled"):
        if waiting := supersede():
            progress.note(f"{waiting:,} runs that waited to do the same were cancelled")
    stages = Stages(sources, settings, prefix, progress)
    decision = stages.standing_decision()
    drifted = None
    if stages.fit():
        stages.score()
        if settings.on_drift != "ignore":
            with harmless("whether the new shards have drifted is not known"):
                model = decision.rule.model if decision is not None else None
                drifted = drift.check(stages.run, stages.arrived(), model)
        decision = stages.decide() or decision
        if settings.has_policy and decision is not None:
            stages.write()
            stages.pack()
            stages.index()
        stages.report(decision)
    worst = artifacts.Worst()
    outcome = stages.outcome(decision, worst)
    artifacts.publish(outcome, worst, inventory=stages.shards, decision=decision, numbers=stages.numbers, drift=drifted)
    summary.announce(outcome, prefix, stages.run)
    metrics.record(outcome.totals(drifted))
    if drifted is not None:
        respond(drifted, sources, stages.run, progress)
    return outcome
