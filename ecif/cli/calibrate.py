"""The command `calibrate`: what the canaries of an output say about its scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ecif import detectors, keys, progress
from ecif.cli import dry
from ecif.cli.answer import Answer
from ecif.cli.options import DryRun, Usual, place, settings_of, wants_json
from ecif.cli.output import Out, ScoreKey
from ecif.settings import StorageSettings

if TYPE_CHECKING:
    from rich.console import Console

    from ecif.calibration.state import Calibration
    from ecif.layout import Layout
    from ecif.storage import Storage

_PRECISIONS = (0.5, 0.8, 0.9, 0.95)


def calibrate(
    out: Out,
    /,
    *,
    scores: ScoreKey = None,
    share: Annotated[
        float | None,
        Parameter(help="share of canaries, when these scores were made with several [default: that of the first run]"),
    ] = None,
    dry_run: DryRun = False,
    settings: Annotated[StorageSettings | None, Parameter(name="*")] = None,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Learn from the canaries: how well each score finds mistakes, how many there are, and the score p_misaligned."""
    layout, storage = place(out, settings_of(StorageSettings, settings, usual))
    show = progress.choose(wants_json(usual))
    if dry_run:
        with dry.rehearsal(storage) as trial:
            return dry.rehearsed("calibrate", _calibrate(layout, trial, scores, share, show), trial, layout)
    return _calibrate(layout, storage, scores, share, show)


def _calibrate(
    layout: Layout, storage: Storage, scores: str | None, share: float | None, show: progress.Progress
) -> Answer:
    from rich.console import Console

    from ecif.calibration import state
    from ecif.stages import scored

    score_key = scores or scored.only_score_key(layout, storage)
    if share is None:
        share = float(scored.score_meta(layout, storage, score_key)["settings"].get("canaries", 0.0))
    found = state.calibrate(layout, storage, score_key, keys.canary_key(score_key, share), progress=show)
    value = {"calibration": layout.calibration(found.key), **found.to_json()}
    del value["curves"]  # the file has them
    text = f"calibration {found.key}: natural mistakes {found.share}, if they are like the canaries"
    return Answer(text, value, show=lambda: _print(found, layout.calibration(found.key), Console()))


def _print(found: Calibration, url: str, console: Console) -> None:
    """Scores by kind of canary, the share of mistakes, cuts by precision, and the weights."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="AUROC of canaries against real pairs", title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("score", no_wrap=True)
    kinds = list(found.measures[detectors.LEARNED])
    for kind in kinds:
        table.add_column(kind, justify="right", no_wrap=True)
    table.add_column("95 % of all", justify="right", no_wrap=True)
    table.add_column("AUPRC", justify="right", no_wrap=True)
    for name in found.scores:
        by_kind = found.measures[name]
        every = by_kind[kinds[0]]
        cells = [f"{by_kind[kind].auroc.value:.3f}" for kind in kinds]
        table.add_row(name, *cells, f"{every.auroc.low:.3f}-{every.auroc.high:.3f}", f"{every.auprc.value:.3f}")
    console.print(table)
    for line in _lines(found, url):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _lines(found: Calibration, url: str) -> Iterator[str]:
    planted = ", ".join(f"{count:,} {kind}" for kind, count in found.canaries.items())
    yield f"from {found.pairs:,} pairs and their canaries in {found.shards:,} shards: {planted}"
    yield f"natural mistakes, if they are like the canaries: {found.share} of the pairs"
    yield "  if they are like one kind: " + ", ".join(
        f"{k} {s}" for k, s in found.shares.items() if k in found.canaries
    )
    curve = found.curves[detectors.LEARNED]
    for precision in _PRECISIONS:
        cut = curve.cut_for(precision, found.share)
        if cut is None:
            yield f"no cut of {detectors.LEARNED} has a precision of {precision:.0%}"
            continue
        drops, finds = curve.dropped(cut).value, curve.recall(cut)
        yield (
            f"precision {precision:.0%}: {detectors.LEARNED} drops {drops:.1%} of the pairs (--threshold {cut:.4g}) "
            f"and finds {finds} of the mistakes; precision {curve.precision(cut, found.share)}"
        )
    weights = ", ".join(f"{n} {w:+.2f}" for n, w in zip(found.model.columns, found.model.weights, strict=True))
    yield f"weights of {detectors.LEARNED}: {weights}"
    yield "canaries are not natural mistakes: the truth may be better or worse than all of this"
    yield f"calibration: {url}"
