"""Commands on a corpus: demo, clean, lint, fit, score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import ecif
from ecif import progress
from ecif.cli import dry
from ecif.cli.answer import Answer
from ecif.cli.options import DryRun, Usual, settings_of, sources_of, wants_json
from ecif.cli.text import failures, listed
from ecif.errors import EXIT_OK, EXIT_SHARDS_FAILED
from ecif.orchestration import orchestrator
from ecif.settings import ScoreSettings, Settings

if TYPE_CHECKING:
    from ecif.logra import Projection
    from ecif.run import Run
    from ecif.storage import Storage

Sources = Annotated[
    str, Parameter(help="tars: brace ranges, globs, directories, lists of URLs (.txt), single files, or a::b of these")
]


def demo(
    *,
    out: Annotated[Path, Parameter(help="directory of all that it makes; an earlier demo is replaced")] = Path(
        "demo-out"
    ),
    pairs: Annotated[int, Parameter(help="pairs of the corpus")] = 6_000,
    seed: Annotated[int, Parameter(help="seed of every random choice")] = 0,
    dry_run: DryRun = False,
    json: Annotated[bool, Parameter(help="print one JSON document on stdout")] = False,
) -> Answer:
    """Render, damage, clean and judge a small corpus: offline, on the CPU, in a few minutes."""
    if dry_run:
        what = f"renders {pairs:,} pairs, trains a model on them, cleans them, and judges what came out"
        return dry.would([dry.Step("demo", what, where=f"{out}/")])

    from rich.console import Console

    from ecif.demo.run import print_outcome, run_demo

    outcome = run_demo(out, pairs=pairs, seed=seed, progress=progress.choose(json))
    code = EXIT_SHARDS_FAILED if outcome.failed else EXIT_OK
    return Answer("", outcome.to_json(), code, show=lambda: print_outcome(outcome, Console()))


def clean(
    *sources: Sources,
    dry_run: DryRun = False,
    settings: Annotated[Settings | None, Parameter(name="*")] = None,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Score a corpus and write it again without the harmful pairs: everything, as one Prefect flow.

    Without a policy (--drop, --drop-count, --threshold) it scores, reports and stops. What is finished is kept:
    run the same command again after an interruption, or when shards have arrived. Without PREFECT_API_URL an
    engine is started for the run.
    """
    chosen = settings_of(Settings, settings, usual)
    named = sources_of(sources, usual)
    if dry_run:
        return clean_dry(named, chosen)
    outcome = orchestrator("prefect")(named, chosen, progress.choose(wants_json(usual)))
    text = [outcome.headline()]
    text += [f"  failed: {item['shard']} ({item['stage']}): {item['reason']}" for item in outcome.failed]
    text += [f"cut: {outcome.cut}"] if outcome.cut else []
    text += [outcome.expected] if outcome.expected else []
    text += [f"shards: {outcome.out}"] if outcome.written else []
    text += [f"report: {outcome.report}"] if outcome.report else []
    text += [_summary(outcome.score_key, outcome.decision_key, outcome.seconds)]
    return Answer("\n".join(text), outcome.to_json(), EXIT_SHARDS_FAILED if outcome.failed else EXIT_OK)


def _summary(score_key: str, decision_key: str | None, seconds: Mapping[str, float]) -> str:
    """Of what the lines above tell: versions and keys, which name the settings, and times; to be pasted with them."""
    keys = [f"scores {score_key}"] if score_key else []
    keys += [f"decision {decision_key}"] if decision_key else []
    stages = ", ".join(f"{stage} {progress.clock(spent)}" for stage, spent in seconds.items() if round(spent))
    total = progress.clock(sum(seconds.values()))
    return f"ecif {ecif.__version__}, {', '.join([*keys, total])}" + (f" ({stages})" if stages else "")


def clean_dry(named: Sequence[str], chosen: Settings) -> Answer:
    """All stages; what the cut comes to is known when all shards have scores."""
    with dry.rehearsal(chosen.storage()) as trial:
        run = opened(named, chosen, progress.Silent(), trial)
        return dry.would([*dry.fits(run), dry.scores(run), *dry.decided(run, chosen, trial)])


def fit(
    *sources: Sources,
    dry_run: DryRun = False,
    settings: Annotated[ScoreSettings | None, Parameter(name="*")] = None,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Fit the direction along which influence is measured, on a sample of the corpus."""
    chosen = settings_of(ScoreSettings, settings, usual)
    named = sources_of(sources, usual)

    from ecif.inventory import Shard
    from ecif.stages import fit as stage
    from ecif.stages import loop
    from ecif.stages.engine import load_engine

    show = progress.choose(wants_json(usual))
    if dry_run:
        with dry.rehearsal(chosen.storage()) as trial:
            return dry.would(dry.fits(opened(named, chosen, show, trial)))
    run = opened(named, chosen, show)
    value: dict[str, Any] = {"fit_key": run.fit_key, "direction": run.layout.direction(run.fit_key), "failed": []}
    waiting = [one for one in (run, *run.other_fits().values()) if not stage.is_done(one)]
    if waiting:
        engine = load_engine(chosen, say=show.note)
        show.note(f"influence lives in {engine.towers.coverage}")
    for one in waiting:
        sample = stage.freeze_sample(one)
        todo = stage.todo(one, sample)
        project = stage.freeze_projection(one, engine, stage.sample_shards(one, sample), show)

        def work(shard: Shard, one: Run = one, project: Projection = project) -> None:
            stage.map_shard(one, engine, project, shard)
            show.advance()

        with progress.shown(show, "fit", len(todo), "shards"):
            worked = loop.over(todo, work, show, max_failed=chosen.max_failed)
        if worked.failed:
            value["failed"] = failures(worked.failed)
            text = "the fit waits for shards that failed; run the same command again"
            return Answer(f"{text}\n{listed(value['failed'])}", value, EXIT_SHARDS_FAILED)
        stage.reduce(one, engine, show)
    facts = run.storage.read_json(run.layout.fit_meta(run.fit_key))
    value |= {name: facts[name] for name in ("N", "N_fit", "coverage", "projection", "projected_size", "damping")}
    value["effective_dimension"] = facts["effective_dimension"]
    return Answer(f"fit {run.fit_key}: {value['direction']}\n{_fitted(facts)}", value)


def _fitted(facts: dict[str, Any]) -> str:
    """What the influence lives in, and what the curvature rests on, in a line each."""
    covered, tensors = facts["coverage"], facts["projection"]
    share = covered["covered"] / covered["total"]
    return (
        f"  parameters: {covered['covered']:,} of {covered['total']:,} ({share:.1%}) in {len(tensors)} tensors, "
        f"projected onto {facts['projected_size']:,} numbers\n"
        f"  curvature: {facts['curvature']}, {facts['N_fit']:,} of {facts['N']:,} pairs, effective dimension "
        f"{facts['effective_dimension']:.0f} at damping {facts['damping']['delta']:.3g}"
    )


def score(
    *sources: Sources,
    dry_run: DryRun = False,
    settings: Annotated[ScoreSettings | None, Parameter(name="*")] = None,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Score every pair of the corpus, shard by shard."""
    chosen = settings_of(ScoreSettings, settings, usual)
    named = sources_of(sources, usual)

    from ecif.stages import loop
    from ecif.stages import score as stage
    from ecif.stages.engine import load_engine
    from ecif.stages.upcoming import Upcoming

    show = progress.choose(wants_json(usual))
    if dry_run:
        with dry.rehearsal(chosen.storage()) as trial:
            return dry.would([dry.scores(opened(named, chosen, show, trial))])
    run = opened(named, chosen, show)
    done = stage.done(run)
    todo = [shard for shard in run.inventory.shards if shard.name not in done]
    failed: list[dict[str, Any]] = []
    overlap = samples = 0
    if todo:
        engine = load_engine(chosen, say=show.note)
        direction = stage.load_direction(run, engine)
        pairs = sum(shard.samples or 0 for shard in todo)
        with progress.shown(show, "score", pairs, "pairs"), Upcoming(run, engine, todo) as upcoming:
            worked = loop.over(
                todo,
                lambda shard: stage.score_shard(run, engine, shard, direction, show, upcoming),
                show,
                max_failed=chosen.max_failed,
            )
        failed = failures(worked.failed)
        overlap = sum(summary.overlap for summary in worked.results)
        samples = sum(summary.samples for summary in worked.results)
    scored = len(run.inventory.shards) - len(failed)
    where = run.layout.scores_of(run.score_key)
    value = {
        "score_key": run.score_key,
        "scores": where,
        "shards": scored,
        "samples": samples,
        "overlap": overlap,
        "failed": failed,
    }
    text = f"{scored:,} shards scored, {samples:,} pairs by this run: {where}"
    if overlap:
        show.note(f"{overlap:,} of these pairs have an image of the validation set, too: their scores are too kind")
    code = EXIT_SHARDS_FAILED if failed else EXIT_OK
    return Answer(f"{text}\n{listed(failed)}".rstrip(), value, code)


def opened(named: Sequence[str], chosen: ScoreSettings, show: progress.Progress, storage: Storage | None = None) -> Run:
    """The run of these sources and settings; gaps in the ranges are said."""
    from ecif.run import open_run

    run = open_run(named, chosen, storage)
    if missing := run.inventory.missing:
        show.note(f"{len(missing):,} shards of the ranges are missing, the first is {missing[0]}; the others are used")
    return run
