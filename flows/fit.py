"""The fit as a flow of its own: for a machine with an accelerator, before a run of `clean` hands out the rest.

`clean` does the fit, too, where it is not done yet; what is single in it, the projection and the reduce, then happens
in the parent, which on many machines is a small one without an accelerator. With this flow first, `clean` finds the
direction in the output and goes on with the scores.
"""

from __future__ import annotations

from typing import Any, cast

from prefect import flow, get_run_logger
from prefect.states import Completed

from flows.fanout.children import cancel_children
from flows.parameters import PublicSettings, Sources
from tasks import ambient


@flow(
    name="fit",
    description="Fit the direction along which influence is measured, on a sample of the corpus.",
    on_cancellation=[cancel_children],
    on_crashed=[cancel_children],
)
def fit(sources: Sources, settings: PublicSettings) -> dict[str, Any]:
    """Fit the direction, unless the output holds it.

    Args:
        sources: of the whole corpus; the fit takes its sample from them.
        settings: those of the flow clean; what decides and writes changes nothing here.

    Returns:
        {"out", "fit_key", "direction", "failed", "seconds"}: `direction` is its URL, None while it waits for shards
        that failed; `failed` and `seconds` as in `flows.outcome.Outcome`.
    """
    from flows.stages import Stages

    with ambient.during(ambient.current()) as here:
        stages = Stages(sources, here.settings(settings), None, here.progress)
        finished = stages.fit()
        run = stages.run
        outcome = {
            "out": run.layout.root,
            "fit_key": run.fit_key,
            "direction": run.layout.direction(run.fit_key) if finished else None,
            "failed": [stages.failed[name] for name in sorted(stages.failed)],
            "seconds": {stage: round(seconds, 3) for stage, seconds in stages.seconds.items()},
        }
    if finished:
        get_run_logger().info(f"the direction is {outcome['direction']}")
        return outcome
    message = f"the fit waits for {len(stages.failed)} shards that failed; run it again"
    # For a returned state callers get its data, so the type is that of the data.
    return cast(dict[str, Any], Completed(name="ShardsFailed", message=message, data=outcome))
