"""The commands `bench ...`: measurements on a corpus of one's own. One function a command."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from ecif import progress
from ecif.cli import dry, examples, profile
from ecif.cli.answer import Answer
from ecif.cli.options import DryRun, Usual, place, settings_of, wants_json
from ecif.cli.output import Out, ScoreKey
from ecif.errors import UsageError
from ecif.policy.settings import PolicySettings
from ecif.settings import MethodSettings, StorageSettings

if TYPE_CHECKING:
    from ecif.effects.study import Study

app = App(
    name="bench",
    help="Measure, on a corpus of one's own: what cleaning does to a model, and where the time goes.",
    default_parameter=Parameter(negative=()),
)
app.command(profile.profile, help_epilogue=examples.epilogue("bench profile"), help_format="markdown")


@app.command(help_epilogue=examples.epilogue("bench effects"), help_format="markdown")
def effects(
    out: Out,
    /,
    *,
    evaluation: Annotated[
        tuple[str, ...], Parameter(help="tars of clean pairs that are not in the corpus: models are judged by them")
    ] = (),
    prompts: Annotated[
        str, Parameter(help="class prompts as in --objective prompts:FILE, to measure zero-shot accuracy, too")
    ] = "",
    compare: Annotated[
        tuple[str, ...],
        Parameter(
            help="score to drop by; may be repeated "
            "[default: clip_score, neg_clip_loss, influence, and p_misaligned where there are canaries]"
        ),
    ] = (),
    drop: Annotated[Decimal | None, Parameter(help=PolicySettings.model_fields["drop"].description)] = None,
    seeds: Annotated[int, Parameter(help="models of each variant, with seeds 1 to this")] = 5,
    epochs: Annotated[int, Parameter(help="passes over the corpus as it is; all variants take as many steps")] = 8,
    batch_size: Annotated[int, Parameter(help=MethodSettings.model_fields["batch_size"].description)] = 256,
    learning_rate: Annotated[float, Parameter(help="largest step of AdamW")] = 1.5e-3,
    model_config: Annotated[
        Path | None,
        Parameter(
            help="open_clip config (JSON) of the model that is trained from random weights [default: the demo's]"
        ),
    ] = None,
    most_pairs: Annotated[int, Parameter(help="of a larger corpus so many pairs are drawn, by whole shards")] = 20_000,
    scores: ScoreKey = None,
    to: Annotated[str, Parameter(help="write the table to this .csv or .json file, too")] = "",
    dry_run: DryRun = False,
    settings: Annotated[StorageSettings | None, Parameter(name="*")] = None,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Train the same small model on the corpus as it is, without what each score would drop, and on a random subset."""
    if drop is None:
        raise UsageError("--drop is needed: the share of the pairs that each variant leaves out, such as --drop 0.1")
    if to and not to.endswith((".csv", ".json")):
        raise UsageError(f"--to: {to!r} ends in neither .csv nor .json")
    layout, storage = place(out, settings_of(StorageSettings, settings, usual))
    show = progress.choose(wants_json(usual))

    from ecif.effects.study import Recipe, Request, prepare

    recipe = Recipe(epochs, batch_size, learning_rate)
    request = Request(evaluation, drop, prompts, compare, seeds, recipe, model_config, most_pairs)
    if dry_run:
        with dry.rehearsal(storage) as trial:
            return _dry(prepare(layout, trial, request, scores, show), to)
    return answer(prepare(layout, storage, request, scores, show), to, show)


def _dry(study: Study, to: str) -> Answer:
    todo = list(study.todo())
    shards = [study.shards[name] for name in study.population.shards]
    total = len(study.rows) * study.request.seeds
    what = (
        f"{len(todo):,} of {total:,} models, {study.steps:,} steps each, "
        f"of {', '.join(study.rows)}; the others are there"
    )
    where = study.layout.effects(study.key) + "/" + (f", {to}" if to else "")
    return dry.would([dry.over("bench effects", what, shards if todo else [], write_files=len(todo) + 1, where=where)])


def answer(study: Study, to: str, show: progress.Progress) -> Answer:
    """Train what is missing, and give the table."""
    from ecif.agreement import canonical
    from ecif.effects import table
    from ecif.effects.running import run

    cells = run(study, show)
    found = table.rows(cells)
    remarks = list(table.remarks(study, cells))
    url = study.layout.effects_table(study.key)
    study.storage.publish(url, table.csv(found), replace=True)
    value = {
        "effects_key": study.key,
        "table": url,
        "drop": str(study.request.drop),
        "steps": study.steps,
        "seeds": study.request.seeds,
        "remarks": remarks,
        "rows": [row.to_json() for row in found],
    }
    if to:
        study.storage.publish(to, canonical(value) if to.endswith(".json") else table.csv(found), replace=True)

    def show_it() -> None:
        from rich.console import Console

        console = Console()
        for part in table.tables(found):
            console.print(part)
        for line in (*remarks, f"table: {url}"):
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    return Answer("\n".join(remarks), value, show=show_it)
