"""The command `bench profile`: where the time of scoring goes on shards of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ecif import progress
from ecif.cli import dry
from ecif.cli.answer import Answer
from ecif.cli.corpus import Sources
from ecif.cli.options import DryRun, Usual, settings_of, sources_of, wants_json
from ecif.errors import UsageError
from ecif.settings import ScoreSettings

if TYPE_CHECKING:
    from rich.console import Console

    from ecif.stages.profile import Profile


def profile(
    *sources: Sources,
    pairs: Annotated[int, Parameter(help="samples to measure with, from the first shards on")] = 1_000,
    dry_run: DryRun = False,
    settings: Annotated[ScoreSettings | None, Parameter(name="*")] = None,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Where the time of scoring goes, stage by stage, and what would make it faster. No fit is needed.

    With --out a score table is written there and removed again, to time it.
    """
    if pairs < 1:
        raise UsageError(f"--pairs: {pairs} is not a number of samples")
    chosen = settings_of(ScoreSettings, settings, usual)
    named = sources_of(sources, usual)
    if dry_run:
        what = f"reads, decodes and scores the first {pairs:,} samples, twice; what it writes is removed"
        return dry.would([dry.Step("bench profile", what, where=chosen.out or "a temporary directory")])

    from rich.console import Console

    from ecif.stages import profile as stage

    show = progress.choose(wants_json(usual))
    with progress.shown(show, "profile", pairs, "samples"):
        found = stage.profile(named, chosen, chosen.storage(), pairs, show)
    return Answer(found.limit, found.to_json(), show=lambda: _print(found, Console()))


def _print(found: Profile, console: Console) -> None:
    """The stages as a table, and what follows."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from ecif.stages.profile import decoders

    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("stage", no_wrap=True)
    for name in ("seconds", "share", "pairs/s alone"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("limited by")
    for stage in found.stages:
        table.add_row(stage.name, f"{stage.seconds:.2f}", f"{stage.share:.1%}", f"{stage.rate:,.0f}", stage.bound)
    console.print(table)
    at_once = decoders(found.processes, found.workers)
    lines = (
        f"{found.pairs:,} pairs, {found.pair_bytes / 1e3:,.0f} kB each, images of {found.side:g} pixels (shorter side, "
        f"median) for a model of {found.model_side}; {found.refused:,} samples cannot be scored",
        f"input (read, decode, tokenise in {at_once}): {found.input_rate:,.0f} pairs/s; "
        f"the rest on {found.device}: {found.device_rate:,.0f} pairs/s; together: {found.together:,.0f} pairs/s",
        f"limited by {found.limit}",
    )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
