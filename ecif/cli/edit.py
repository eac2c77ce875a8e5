"""The command `edit`: weights as if some pairs had never been trained on."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ecif import progress
from ecif.cli import dry
from ecif.cli.answer import Answer
from ecif.cli.corpus import Sources, opened
from ecif.cli.options import DryRun, Usual, settings_of, sources_of, wants_json
from ecif.cli.output import DecisionKey
from ecif.cli.text import failures, listed
from ecif.errors import EXIT_SHARDS_FAILED, UsageError
from ecif.settings import ScoreSettings

if TYPE_CHECKING:
    from ecif.run import Run
    from ecif.stages.removal import Removal


def edit(
    *sources: Sources,
    weights: Annotated[str, Parameter(help="the .safetensors file to write: all parameters of the model")],
    remove: Annotated[
        str | None, Parameter(help="a file that lists what to remove, one uid or shard/key per line")
    ] = None,
    decision: DecisionKey = None,
    dry_run: DryRun = False,
    settings: Annotated[ScoreSettings | None, Parameter(name="*")] = None,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Write weights as if pairs had never been trained on: those of a decision, or of a list."""
    chosen = settings_of(ScoreSettings, settings, usual)
    named = sources_of(sources, usual)
    if remove is not None and decision is not None:
        raise UsageError("give --remove or --decision, not both: they name the pairs to remove in two ways")

    from ecif.inventory import Shard
    from ecif.stages import edit as stage
    from ecif.stages import fitted, loop
    from ecif.stages.engine import load_engine

    show = progress.choose(wants_json(usual))
    if dry_run:
        with dry.rehearsal(chosen.storage()) as trial:
            return _dry(opened(named, chosen, show, trial), weights, remove, decision)
    run = opened(named, chosen, show)
    gone = _gone(run, remove, decision)
    outcome = stage.written(run, gone, weights)
    if outcome is None:
        engine = load_engine(chosen, say=show.note)
        fitted.load_facts(run, engine)  # refuses another model before a shard is read
        todo = stage.todo(run, gone)

        def work(shard: Shard) -> None:
            stage.map_shard(run, engine, shard, gone)
            show.advance()

        with progress.shown(show, "edit", len(todo), "shards"):
            worked = loop.over(todo, work, show, max_failed=chosen.max_failed)
        if worked.failed:
            failed = failures(worked.failed)
            text = "the edit waits for shards that failed; run the same command again"
            return Answer(f"{text}\n{listed(failed)}", {"edit_key": gone.key, "failed": failed}, EXIT_SHARDS_FAILED)
        outcome = stage.reduce(run, engine, gone, weights, show)
    value: dict[str, Any] = {"weights": weights, **asdict(outcome), "actual": outcome.actual, "failed": []}
    value["doubts"] = list(outcome.doubts)
    return Answer(_text(outcome, weights), value)


def _gone(run: Run, remove: str | None, decision: str | None) -> Removal:
    from ecif.stages import removal

    return removal.by_names(run, remove) if remove is not None else removal.by_decision(run, decision)


def _dry(run: Run, weights: str, remove: str | None, decision: str | None) -> Answer:
    from ecif.stages import edit as stage

    gone = _gone(run, remove, decision)
    if stage.written(run, gone, weights) is not None:
        return dry.would([dry.Step("edit", f"nothing, {weights} holds this edit")])
    what = f"the step of the weights for {gone.pairs:,} pairs, on {run.settings.device}"
    todo = stage.todo(run, gone)
    return dry.would(
        [dry.over("edit", what, todo, write_files=len(todo) + 1, where=f"{weights}, and parts of the sum")]
    )


def _text(outcome: Any, weights: str) -> str:
    unscored = ", ".join(f"{count:,} {status}" for status, count in outcome.unscored.items())
    lines = [
        f"removed {outcome.removed:,} pairs of {outcome.shards:,} shards"
        + (f"; not there, because never scored: {unscored}" if unscored else ""),
        f"step: {outcome.relative_step:.2%} of the length of the trainable parameters",
        f"validation loss over {outcome.validation_pairs:,} pairs: predicted change {outcome.predicted:+.3e}, "
        f"actual {outcome.actual:+.3e} ({outcome.before:.5f} -> {outcome.after:.5f})",
        *(f"not credible: {doubt}" for doubt in outcome.doubts),
        f"weights: {weights}",
    ]
    return "\n".join(lines)
