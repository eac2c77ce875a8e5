"""`--dry-run`: what a command would read, compute and write, and nothing of it done.

What is small (inventories, decisions, lists, indexes) is made for certain, by the same code, in a storage that keeps
what is written in a scratch directory (ecif/storage/rehearsal.py). What takes long (towers, tars) is counted instead,
from the same lists of work that the command itself would follow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecif.cli.answer import Answer

if TYPE_CHECKING:
    from ecif.inventory import Shard
    from ecif.layout import Layout
    from ecif.run import Run
    from ecif.selection import Decision
    from ecif.settings import ScoreSettings, Settings
    from ecif.storage import Storage
    from ecif.storage.rehearsal import Rehearsal

# Names of files that are listed; more are only counted.
MOST_NAMES = 20
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True, slots=True)
class Step:
    """One stage that would run.

    Attributes:
        stage: its name. compute: what it would do, in words.
        read_shards, read_bytes, read_pairs: shards it would read, their bytes, and their pairs as far as known.
        write_files: files it would write. write_bytes: their size; None where only the work itself tells it.
        about: the size is an estimate. where: what the files are, and where they would lie.
    """

    stage: str
    compute: str
    read_shards: int = 0
    read_bytes: int = 0
    read_pairs: int = 0
    write_files: int = 0
    write_bytes: int | None = None
    about: bool = False
    where: str = ""

    def lines(self) -> Iterator[str]:
        """For people."""
        from ecif.report.numerals import plural

        yield f"{self.stage}: {self.compute}"
        if self.read_shards:
            pairs = f", {plural(self.read_pairs, 'pair')}" if self.read_pairs else ""
            yield f"  reads {plural(self.read_shards, 'shard')}, {size(self.read_bytes)}{pairs}"
        if self.write_files:
            held = "" if self.write_bytes is None else f", {'about ' * self.about}{size(self.write_bytes)}"
            yield f"  writes {plural(self.write_files, 'file')}{held}: {self.where}"


@contextmanager
def rehearsal(storage: Storage) -> Iterator[Rehearsal]:
    """The storage with all its files, and with a scratch directory for what would be written."""
    from ecif.storage.rehearsal import Rehearsal

    with tempfile.TemporaryDirectory(prefix="ecif-dry-run-") as scratch:
        yield Rehearsal(storage, Path(scratch))


def over(stage: str, compute: str, shards: Sequence[Shard], **written: Any) -> Step:
    """A step that reads whole shards."""
    pairs = sum(shard.samples or 0 for shard in shards)
    return Step(stage, compute, len(shards), sum(shard.size for shard in shards), pairs, **written)


def small(stage: str, compute: str, trial: Rehearsal, below: str) -> Step:
    """A step whose files were made in the rehearsal."""
    written = trial.written()
    where = ", ".join(file.url for file in written) if len(written) <= MOST_NAMES else below
    return Step(stage, compute, write_files=len(written), write_bytes=sum(f.size for f in written), where=where)


def would(steps: Iterable[Step]) -> Answer:
    """The answer of a dry run."""
    listed = list(steps)
    lines = ["dry run: nothing was computed or written", *(line for step in listed for line in step.lines())]
    return Answer("\n".join(lines), {"dry_run": True, "would": [asdict(step) for step in listed]})


def rehearsed(stage: str, answer: Answer, trial: Rehearsal, layout: Layout) -> Answer:
    """The answer of a dry run that did all of the work in the scratch directory."""
    step = small(stage, answer.text.splitlines()[0], trial, layout.root)
    made = would([step])
    return Answer(made.text, made.value | {"answer": answer.value}, answer.code)


def fits(run: Run) -> Iterator[Step]:
    """What `fit` would do; the run is one of a rehearsal."""
    from ecif.stages import fit as stage

    for one in (run, *run.other_fits().values()):
        where = one.layout.direction(one.fit_key).rpartition("/")[0] + "/"
        if stage.is_done(one):
            yield Step("fit", f"nothing, {one.fit_key} is finished")
            continue
        shards = stage.todo(one, stage.freeze_sample(one))
        what = f"curvature ({one.settings.curvature}) and direction of {_model(one.settings)}"
        yield over("fit", what, shards, write_files=len(shards) + 6, where=where)


def scores(run: Run) -> Step:
    """What `score` would do."""
    from ecif.stages import score as stage

    done = stage.done(run)
    todo = [shard for shard in run.inventory.shards if shard.name not in done]
    if not todo:
        return Step("score", f"nothing, all {len(done):,} shards have scores")
    columns = ", ".join(run.settings.columns)
    what = f"scores with {_model(run.settings)}" + (f", further columns {columns}" if columns else "")
    what += f"; {len(done):,} shards have scores already" if done else ""
    where = run.layout.scores_of(run.score_key) + "/"
    return over("score", what, todo, write_files=len(todo), where=where)


def decided(run: Run, settings: Settings, trial: Rehearsal) -> Iterator[Step]:
    """What `clean` would do behind the scores: the cut, the shards, the report."""
    from ecif import manifest
    from ecif.stages import outcome, score
    from ecif.stages import plan as stage

    layout, shards = run.layout, run.inventory.shards
    report = Step("report", "the page of what came out", write_files=1, where=layout.report())
    if not settings.has_policy:
        yield Step("plan", "nothing: no policy is given, so nothing is dropped")
    elif waiting := {shard.name for shard in shards} - score.done(run):
        yield Step("plan", f"a cut by {_deciding(settings)}, when {len(waiting):,} more shards have scores")
        share = 1 - float(settings.drop) if settings.drop is not None else None
        size = None if share is None else round(share * sum(shard.size for shard in shards))
        where = f"{layout.root}/ (tars, with ledgers and manifests)"
        copies = "copies the surviving bytes"
        yield over("apply", copies, shards, write_files=3 * len(shards), write_bytes=size, about=True, where=where)
    else:
        decision = stage.plan(layout, trial, settings, run.score_key)
        outcome.check(layout, trial, decision, settings.guard)
        stage.mark_applied(layout, trial, decision, settings)
        cut = f"drops {decision.n_dropped:,} of {decision.n_ok:,} scored pairs by {decision.detector}"
        yield Step("plan", cut, write_files=1, where=layout.decision(decision.key))
        done = manifest.done(layout, trial)
        yield writing([shard for shard in shards if shard.name not in done], decision, layout, settings.write)
    yield report


def writing(shards: Sequence[Shard], decision: Decision, layout: Layout, form: str) -> Step:
    """What `apply` would do with these shards."""
    if not shards:
        return Step("apply", "nothing, all shards with scores are written")
    share = 1 - decision.n_dropped / decision.n_rows if decision.n_rows else 1.0
    survivors = round(share * sum(shard.size for shard in shards))
    what = f"copies the surviving bytes ({share:.2%} of the pairs) by decision {decision.key}"
    if form == "columns":
        return over("apply", "tables of decisions", shards, write_files=2 * len(shards), where=f"{layout.root}/")
    where = f"{layout.root}/ (tars, with ledgers and manifests)"
    return over("apply", what, shards, write_files=3 * len(shards), write_bytes=survivors, about=True, where=where)


def size(count: int) -> str:
    """Bytes as people read them: `999 bytes`, `1.2 MB`."""
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{count:,} bytes" if unit == 0 else f"{value:.3g} {_UNITS[unit]}"


def _deciding(settings: Settings) -> str:
    from ecif.stages import deciding

    return " or, with few canaries, ".join(one.rank_by or one.detector for one in deciding.candidates(settings))


def _model(settings: ScoreSettings) -> str:
    return f"{settings.model.rpartition('/')[2]} on {settings.device}"
