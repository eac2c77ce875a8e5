"""The command `trace`: which pairs of the corpus a right or wrong answer of the model comes from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ecif import progress
from ecif.cli import dry
from ecif.cli.answer import Answer
from ecif.cli.corpus import Sources, opened
from ecif.cli.options import DryRun, Usual, settings_of, sources_of, wants_json
from ecif.cli.text import failures, listed
from ecif.errors import EXIT_OK, EXIT_SHARDS_FAILED, UsageError
from ecif.settings import ScoreSettings

if TYPE_CHECKING:
    from ecif.report.gallery import Exhibit
    from ecif.run import Run
    from ecif.stages.cases import Asked, Case
    from ecif.stages.engine import Engine
    from ecif.stages.trace import Contribution, Options, Traced

MOST_TOP = 200  # pairs of a side: each brings its picture
_ORDER = {"theta-relative": "theta", "l-relative": "l"}  # shown in the place of relative-IS
_CAPTION = 60  # characters of a caption in the terminal


def trace(
    *sources: Sources,
    image: Annotated[tuple[str, ...], Parameter(help="a test image; may be repeated, with a --text for each")] = (),
    text: Annotated[
        tuple[str, ...], Parameter(help="the test image's caption, right or, with --expected, the model's mistake")
    ] = (),
    expected: Annotated[
        tuple[str, ...], Parameter(help="the right caption, where --text is what the model says instead")
    ] = (),
    test_pairs: Annotated[str | None, Parameter(help="a tar of test pairs, instead of --image and --text")] = None,
    candidates: Annotated[
        str | None,
        Parameter(help="captions that the right one competes with, one per line [default: validation pairs]"),
    ] = None,
    top: Annotated[int, Parameter(help="pairs to find on each side, responsible and supporting")] = 12,
    rank_by: Annotated[
        Literal["influence", "relative", "theta-relative", "l-relative"],
        Parameter(help="order by the size of the influence, or relative to the pair's gradient"),
    ] = "influence",
    probes: Annotated[
        int, Parameter(help="random directions that estimate the relative forms; 0 leaves them out")
    ] = 16,
    dry_run: DryRun = False,
    settings: Annotated[ScoreSettings | None, Parameter(name="*")] = None,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Find the pairs of the corpus that a right or wrong answer of the model comes from."""
    chosen = settings_of(ScoreSettings, settings, usual)
    named = sources_of(sources, usual)
    if bool(image or text) == (test_pairs is not None):
        raise UsageError("give test pairs: --image and --text, or --test-pairs and a tar, and not both")
    if expected and test_pairs is not None:
        raise UsageError("--expected goes with --image and --text, not with --test-pairs")
    if top < 1:
        raise UsageError(f"--top: {top} is less than 1")

    from ecif.report import trace as gallery
    from ecif.stages import cases as stage
    from ecif.stages import trace as tracing
    from ecif.stages.engine import load_engine
    from ecif.stages.fitted import load_fit

    show = progress.choose(wants_json(usual))
    if dry_run:
        with dry.rehearsal(chosen.storage()) as trial:
            return _dry(opened(named, chosen, show, trial))
    run = opened(named, chosen, show)
    _refuse_without_fit(run)
    engine = load_engine(chosen, say=show.note)
    fit = load_fit(run, engine)
    notes: list[str] = []
    if test_pairs is None:
        cases = stage.from_files(image, text, expected, run.storage)
    else:
        cases = _cases(run, engine, test_pairs, notes)
    if len(cases) > stage.MOST:
        raise UsageError(
            f"{len(cases):,} test pairs are too many for one call; at most {stage.MOST} are traced at a time"
        )
    competing = stage.read_candidates(candidates, run.storage) if candidates is not None else None
    if top > MOST_TOP:
        notes.append(f"--top {top:,} is lowered to {MOST_TOP}, the most that a page can show.")
    options = tracing.Options(min(top, MOST_TOP), rank_by, probes)
    if competing is None and not expected:
        asked = stage.among_validation(run, engine, cases)
    else:
        absent = [one.caption for one in cases if competing is not None and one.caption not in competing]
        notes += [f"--candidates does not hold the caption {caption!r}; it was added." for caption in absent]
        asked = stage.among_candidates(engine, cases, competing or [])
    with progress.shown(show, "trace", sum(shard.samples or 0 for shard in run.inventory.shards), "pairs"):
        traced = tracing.trace(run, engine, fit, asked, options, show)
    if traced.pairs < options.top:
        notes.append(f"The corpus has {traced.pairs:,} pairs that can be traced, fewer than --top {options.top}.")
    for note in notes:
        show.note(note)
    key = tracing.key(run, cases, competing, options)
    shown = gallery.pictures(run, traced, show)
    page = gallery.build_trace_page(run, key, asked, traced, options, shown, notes)
    run.storage.publish(run.layout.trace_page(key), page, replace=True)
    rows = list(_rows(asked, traced, shown))
    _publish_table(run, key, rows)
    failed = failures(traced.failed)
    value = {
        "trace_key": key,
        "table": run.layout.trace(key),
        "page": run.layout.trace_page(key),
        "source": "index" if traced.by_index else "pass",
        "pairs": traced.pairs,
        "notes": notes,
        "cases": [_standing(one) | {"found": [row for row in rows if row["case"] == n]} for n, one in enumerate(asked)],
        "failed": failed,
    }
    text_lines = [*_lines(asked, traced, options, shown), f"page: {value['page']}", f"table: {value['table']}"]
    code = EXIT_SHARDS_FAILED if failed else EXIT_OK
    return Answer("\n".join([*text_lines, listed(failed)]).rstrip(), value, code)


def _dry(run: Run) -> Answer:
    _refuse_without_fit(run)
    table = run.layout.trace("KEY")
    what = "influence of all pairs on the test pairs, from stored gradients where there are any"
    return dry.would([dry.over("trace", what, run.inventory.shards, write_files=2, where=f"{table} and a page")])


def _refuse_without_fit(run: Run) -> None:
    from ecif.stages.fitted import is_done

    if not is_done(run):
        raise UsageError(
            f"there is no finished fit for these settings in {run.layout.root}; run `ecif fit` with the same ones first"
        )


def _cases(run: Run, engine: Engine, tar: str, notes: list[str]) -> list[Case]:
    """The pairs of the tar; what is none is noted."""
    from ecif.stages.cases import from_tar

    cases, refused = from_tar(tar, run, engine)
    if not cases:
        why = f": {refused[0].detail}" if refused else ""
        raise UsageError(f"--test-pairs: {tar} holds no pair that can be used{why}")
    notes += [f"The test sample {one.key} is left out: {one.detail}." for one in refused]
    return cases


def _standing(one: Asked) -> dict[str, Any]:
    """A case without its image and gradient."""
    return {
        "name": one.case.name,
        "caption": one.case.caption,
        "mistaken": one.case.mistaken,
        "answer": one.answer,
        "rank": one.rank,
        "among": one.among,
        "competitors": one.competitors,
        "loss": one.loss,
    }


def _rows(asked: list[Asked], traced: Traced, shown: Mapping[tuple[str, int], Exhibit]) -> Iterator[dict[str, Any]]:
    """A row for each case, side and pair."""
    for (n, side), found in traced.found.items():
        for rank, pair in enumerate(found, start=1):
            place = {"case": n, "name": asked[n].case.name, "side": side, "rank": rank}
            yield place | asdict(pair) | {"caption": shown[pair.shard, pair.index].caption}


def _publish_table(run: Run, key: str, rows: list[dict[str, Any]]) -> None:
    import polars as pl

    from ecif.stages.trace import SCHEMA

    with tempfile.TemporaryDirectory(prefix="ecif-") as folder:
        file = Path(folder, "trace.parquet")
        pl.DataFrame(rows, schema=SCHEMA).write_parquet(file)
        run.storage.publish(run.layout.trace(key), file, replace=True)


def _lines(
    asked: list[Asked], traced: Traced, options: Options, shown: Mapping[tuple[str, int], Exhibit]
) -> Iterator[str]:
    """The answer for people: each case, and a table of each side."""
    from ecif.stages.trace import SIDES

    source = "from stored gradients" if traced.by_index else "by a pass of the model"
    yield f"{traced.pairs:,} pairs of the corpus, {source}; ordered by {options.rank_by}"
    for n, one in enumerate(asked):
        right = "rightly" if one.rank == 1 else f"not {one.case.caption!r}, which is {one.rank} of {one.among}"
        yield f"\n{one.case.name}: the model says {one.answer!r}, {right}; loss {one.loss:.4f}"
        for side, what in zip(SIDES, ("lowers this loss", "raises it"), strict=True):
            found = traced.found[n, side]
            yield f"{side}: removing one of these {what}" if found else f"{side}: none"
            if found:
                width = max(len(f"{c.shard}/{c.key}") for c in found)
                form = _ORDER.get(options.rank_by, "relative")
                yield f"   #   influence  {form:>8}    clip  {'pair':{width}}  caption"
                for place, c in enumerate(found, start=1):
                    caption = _caption(shown[c.shard, c.index])
                    yield f"{place:4}  {_numbers(c, options)}  {f'{c.shard}/{c.key}':{width}}  {caption}"


def _numbers(c: Contribution, options: Options) -> str:
    name = options.rank_by.replace("-", "_") if options.rank_by in _ORDER else "relative"
    value = getattr(c, name)
    form = "-" if value is None else f"{value:.3f}" if name == "relative" else f"{value:+.1e}"
    return f"{c.influence:+.3e}  {form:>8}  {c.clip_score:6.3f}"


def _caption(exhibit: Exhibit) -> str:
    if exhibit.caption is None:
        return f"({exhibit.trouble})"
    text = " ".join(exhibit.caption.split())
    return text if len(text) <= _CAPTION else f"{text[: _CAPTION - 1]}…"
