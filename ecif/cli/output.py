"""Commands on an output: plan, apply, verify, report. They find inventory, scores and decisions in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ecif import progress
from ecif.cli import dry
from ecif.cli.answer import Answer
from ecif.cli.options import ApplySettings, DryRun, PlanSettings, Usual, place, settings_of, wants_json
from ecif.cli.text import failures, listed
from ecif.errors import EXIT_OK, EXIT_SHARDS_FAILED, UsageError
from ecif.settings import StorageSettings

if TYPE_CHECKING:
    from ecif.inventory import Shard
    from ecif.layout import Layout
    from ecif.packmap import Target
    from ecif.selection import Decision
    from ecif.shards.tar import Limits
    from ecif.stages.loop import Failure
    from ecif.storage import Storage
    from ecif.storage.rehearsal import Rehearsal

Out = Annotated[str, Parameter(help="the output of an earlier command: a directory or an object-storage prefix")]
DecisionKey = Annotated[str | None, Parameter(help="which decision, when the output holds several")]
_MOST_PAIRS = 200  # of a page that still opens on a phone
ScoreKey = Annotated[str | None, Parameter(help="which scores, when the output holds several")]


def plan(
    out: Out,
    /,
    *,
    scores: ScoreKey = None,
    without: Annotated[
        tuple[str, ...], Parameter(help="decide without this shard, which could not be scored; may be repeated")
    ] = (),
    dry_run: DryRun = False,
    settings: Annotated[PlanSettings | None, Parameter(name="*")] = None,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Turn scores and a policy into a decision: the frozen cut that apply follows."""
    chosen = settings_of(PlanSettings, settings, usual)
    layout, storage = place(out, chosen)
    show = progress.choose(wants_json(usual))
    if dry_run:
        with dry.rehearsal(storage) as trial:
            return dry.rehearsed("plan", _plan(layout, trial, chosen, scores, without, show), trial, layout)
    return _plan(layout, storage, chosen, scores, without, show)


def _plan(
    layout: Layout,
    storage: Storage,
    chosen: PlanSettings,
    scores: str | None,
    without: tuple[str, ...],
    show: progress.Progress,
) -> Answer:
    from ecif.stages import deciding, outcome
    from ecif.stages import plan as stage

    decision = stage.plan(layout, storage, chosen, scores, show, set_aside=without)
    if storage.exists(layout.applied()) and (held := stage.load_decision(layout, storage).key) != decision.key:
        show.note(
            f"this output holds the decision {held} already, and apply follows that one; another one needs a new --out"
        )
    comes_to = outcome.of(layout, storage, decision, show)
    promised = deciding.expected(layout, storage, decision)
    lines = (decision.headline(), *comes_to.lines(), *((promised.line(),) if promised else ()))
    value = {"decision": layout.decision(decision.key), **decision.to_json(), "outcome": asdict(comes_to)}
    value["expected"] = promised.to_json() if promised else None
    text = "\n".join(lines)
    return Answer(text, value)


def apply(
    out: Out,
    /,
    *,
    decision: DecisionKey = None,
    dry_run: DryRun = False,
    settings: Annotated[ApplySettings | None, Parameter(name="*")] = None,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Write the shards without the pairs that the decision drops; every surviving byte as it was."""
    given = settings_of(ApplySettings, settings, usual)
    layout, storage = place(out, given)
    if dry_run:
        with dry.rehearsal(storage) as trial:
            return _apply_dry(layout, trial, given, decision)

    from ecif import inventory, manifest
    from ecif.interop.loaders import write_index
    from ecif.stages import loop, outcome
    from ecif.stages import plan as stage
    from ecif.stages.scored import limits as saved_limits
    from ecif.stages.scored import scored_shards
    from ecif.stages.write import write_shard

    chosen = stage.load_decision(layout, storage, decision)
    show = progress.choose(wants_json(usual))
    outcome.check(layout, storage, chosen, given.guard, show)
    stage.mark_applied(layout, storage, chosen, given)
    limits = saved_limits(layout, storage, chosen.score_key)
    scored = scored_shards(layout, storage, chosen.score_key)
    done = manifest.done(layout, storage)
    shards = inventory.load(layout, storage).shards
    todo = [shard for shard in shards if shard.name in scored and shard.name not in done]
    with progress.shown(show, "write", sum(shard.samples or 0 for shard in todo), "pairs"):

        def work(shard: inventory.Shard) -> manifest.Manifest:
            written = write_shard(shard, chosen, layout, storage, given, limits)
            show.advance(written.samples)
            return written

        worked = loop.over(todo, work, show, max_failed=given.max_failed)
    failed = list(worked.failed)
    packed = None
    # The map is frozen: shards that fail now would come in a generation of their own, behind all others.
    if given.repack is not None and not failed:
        packed, more = _pack(chosen, given, layout, storage, limits, shards, show)
        failed += more
    write_index(layout, storage)
    counts = {name: sum(getattr(m, name) for m in worked.results) for name in ("kept", "dropped", "quarantined")}
    unscored = len(shards) - len(scored)
    value: dict[str, Any] = {
        "out": layout.root,
        "decision_key": chosen.key,
        "written": len(worked.results),
        "written_before": len(done),
        "without_scores": unscored,
        **counts,
        "packed": packed,
        "failed": failures(failed),
    }
    text = (
        f"wrote {len(worked.results):,} shards to {layout.root}: kept {counts['kept']:,}, dropped {counts['dropped']:,}"
    )
    text += f", quarantined {counts['quarantined']:,}" if counts["quarantined"] else ""
    text += f"; {len(done):,} were there before" if done else ""
    text += f"; {unscored:,} have no scores" if unscored else ""
    text += f"; packed {packed:,} new shards of {given.repack:,} samples" if packed is not None else ""
    if given.repack is not None and packed is None:
        text += "; packing waits for the shards that failed: mend them, and run the same command again"
    code = EXIT_SHARDS_FAILED if failed else EXIT_OK
    return Answer(f"{text}\n{listed(value['failed'])}".rstrip(), value, code)


def _apply_dry(layout: Layout, trial: Rehearsal, given: ApplySettings, key: str | None) -> Answer:
    from ecif import inventory, manifest
    from ecif.stages import outcome
    from ecif.stages import plan as stage
    from ecif.stages.scored import scored_shards

    chosen = stage.load_decision(layout, trial, key)
    outcome.check(layout, trial, chosen, given.guard)
    stage.mark_applied(layout, trial, chosen, given)  # refuses what apply would refuse
    scored, done = scored_shards(layout, trial, chosen.score_key), manifest.done(layout, trial)
    todo = [one for one in inventory.load(layout, trial).shards if one.name in scored and one.name not in done]
    return dry.would([dry.writing(todo, chosen, layout, given.write)])


def _pack(
    decision: Decision,
    given: ApplySettings,
    layout: Layout,
    storage: Storage,
    limits: Limits,
    shards: Sequence[Shard],
    show: progress.Progress,
) -> tuple[int, list[Failure]]:
    """Write the packed shards; how many, and what failed."""
    from ecif.stages import loop, pack
    from ecif.stages.write import to_pack

    assert given.repack is not None
    todo = to_pack(layout, storage, given.repack)
    by_name = {shard.name: shard for shard in shards}
    with progress.shown(show, "pack", sum(target.samples for target in todo), "pairs"):

        def work(target: Target) -> None:
            show.advance(pack.pack_shard(target, decision, by_name, layout, storage, limits).samples)

        worked = loop.over(todo, work, show, max_failed=given.max_failed)
    return len(worked.results), list(worked.failed)


def report(
    out: Out,
    /,
    *,
    scores: ScoreKey = None,
    decision: DecisionKey = None,
    pairs: Annotated[int, Parameter(help=f"pairs in each set of the gallery, 1 to {_MOST_PAIRS}")] = 24,
    dry_run: DryRun = False,
    settings: Annotated[StorageSettings | None, Parameter(name="*")] = None,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Make the report again: outcome, scores and how far to trust them, and pairs to look at and to review."""
    if not 1 <= pairs <= _MOST_PAIRS:
        raise UsageError(f"--pairs {pairs}: a page shows 1 to {_MOST_PAIRS} pairs of each set")
    layout, storage = place(out, settings_of(StorageSettings, settings, usual))
    show = progress.choose(wants_json(usual))
    if dry_run:
        with dry.rehearsal(storage) as trial:
            return dry.rehearsed("report", _report(layout, trial, scores, decision, pairs, show), trial, layout)
    return _report(layout, storage, scores, decision, pairs, show)


def _report(
    layout: Layout, storage: Storage, scores: str | None, decision: str | None, pairs: int, show: progress.Progress
) -> Answer:
    from ecif import inventory
    from ecif.report import build_report
    from ecif.stages.plan import load_decision
    from ecif.stages.scored import only_score_key

    listing = inventory.load(layout, storage)
    chosen = None
    if decision is not None or (scores is None and storage.list(layout.decisions(), ".json")):
        chosen = load_decision(layout, storage, decision)
    key = chosen.score_key if chosen else scores or only_score_key(layout, storage)
    page = build_report(layout, storage, listing, chosen, key, progress=show, shown=pairs)
    storage.publish(layout.report(), page, replace=True)
    value = {"report": layout.report(), "score_key": key, "decision_key": chosen.key if chosen else None}
    return Answer(f"report: {layout.report()}", value)
