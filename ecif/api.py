"""The Python API: the commands of `ecif` as functions, with the same words.

    import ecif

    ecif.clean("/data/raw/*.tar", validation="/data/val.tar", model="ViT-B-32", pretrained="laion2b_s34b_b79k",
               out="/data/clean", drop=0.1)
    scores = ecif.load_scores("/data/clean")

An option `--batch-size 512` is the keyword `batch_size=512`; sources are positional, as is the output of `plan` and of
what comes behind it; the environment (`ECIF_BATCH_SIZE`) and `config="clean.yaml"` count as they do there. Errors are
those of ecif/errors.py, in the words of the command line; shards that failed are in the result. Each function calls the
function of its command, so that no option can mean two things; the price is that keywords are checked when they are
called, not by a type checker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from ecif.cli import calibrate as calibrate_command
from ecif.cli import corpus, output
from ecif.cli import diff as diff_command
from ecif.cli import edit as edit_command
from ecif.cli import export as export_command
from ecif.cli import lint as lint_command
from ecif.cli import restore as restore_command
from ecif.cli import trace as trace_command
from ecif.cli import verify as verify_command
from ecif.cli.answer import Answer
from ecif.cli.keywords import Url, call, plain, refuse_unknown, split, usual_of
from ecif.cli.options import ApplySettings, PlanSettings, place, settings_of
from ecif.fields import build
from ecif.results import Applied, Cleaned, Fitted, Planned, Rehearsed, Reported, Result, Scored
from ecif.settings import ScoreSettings, Settings, StorageSettings

if TYPE_CHECKING:
    import polars as pl

R = TypeVar("R", bound=Result)
G = TypeVar("G", bound=StorageSettings)


@overload
def fit(*sources: Url, dry_run: Literal[True], **settings: Any) -> Rehearsed: ...
@overload
def fit(*sources: Url, dry_run: Literal[False] = False, **settings: Any) -> Fitted: ...
def fit(*sources: Url, **settings: Any) -> Fitted | Rehearsed:
    """`ecif fit`: fit the direction along which influence is measured, on a sample of the corpus.

    Raises:
        EcifError: the request or its input is refused; the message names the option.
    """
    return _done(Fitted, call(corpus.fit, sources, settings))


@overload
def score(*sources: Url, dry_run: Literal[True], **settings: Any) -> Rehearsed: ...
@overload
def score(*sources: Url, dry_run: Literal[False] = False, **settings: Any) -> Scored: ...
def score(*sources: Url, **settings: Any) -> Scored | Rehearsed:
    """`ecif score`: score every pair of the corpus, shard by shard.

    Raises:
        EcifError: the request or its input is refused; the message names the option.
    """
    return _done(Scored, call(corpus.score, sources, settings))


@overload
def plan(out: Url, *, dry_run: Literal[True], **settings: Any) -> Rehearsed: ...
@overload
def plan(out: Url, *, dry_run: Literal[False] = False, **settings: Any) -> Planned: ...
def plan(out: Url, **settings: Any) -> Planned | Rehearsed:
    """`ecif plan`: turn scores and a policy into a decision, the frozen cut that `apply` follows.

    Raises:
        EcifError: the request or its input is refused; the message names the option.
    """
    return _done(Planned, call(output.plan, (out,), settings))


@overload
def apply(out: Url, *, dry_run: Literal[True], **settings: Any) -> Rehearsed: ...
@overload
def apply(out: Url, *, dry_run: Literal[False] = False, **settings: Any) -> Applied: ...
def apply(out: Url, **settings: Any) -> Applied | Rehearsed:
    """`ecif apply`: write the shards without the pairs that the decision drops, every surviving byte as it was.

    Raises:
        EcifError: the request or its input is refused; the message names the option.
    """
    return _done(Applied, call(output.apply, (out,), settings))


@overload
def report(out: Url, *, dry_run: Literal[True], **settings: Any) -> Rehearsed: ...
@overload
def report(out: Url, *, dry_run: Literal[False] = False, **settings: Any) -> Reported: ...
def report(out: Url, **settings: Any) -> Reported | Rehearsed:
    """`ecif report`: make the report again.

    Raises:
        EcifError: the request or its input is refused; the message names the option.
    """
    return _done(Reported, call(output.report, (out,), settings))


@overload
def clean(*sources: Url, dry_run: Literal[True], **settings: Any) -> Rehearsed: ...
@overload
def clean(*sources: Url, dry_run: Literal[False] = False, **settings: Any) -> Cleaned: ...
def clean(*sources: Url, **settings: Any) -> Cleaned | Rehearsed:
    """`ecif clean` in this process, without Prefect: fit, score, plan, apply and report, one after the other.

    Without a policy (`drop`, `drop_count`, `threshold`) it scores, reports and stops. Finished work is found and kept,
    so the same call again goes on where this one was. As with the command, the cut waits for shards that failed for
    reasons that may pass, and is made without those whose data are broken. What needs the orchestration is not here:
    fan-out, arrivals in a part of the corpus, the comparison of arrivals (`--drift`).

    Raises:
        EcifError: the request or its input is refused; the message names the option.
    """
    chosen, own = split(corpus.clean, settings)
    if own.get("dry_run"):
        return Rehearsed.of(*_told(call(corpus.clean, sources, settings)))
    whole = settings_of(Settings, build(Settings, chosen), usual_of(settings))
    named, part, usual = tuple(map(str, sources)), _part(ScoreSettings, whole), usual_of(settings)
    fitted = _made(Fitted, corpus.fit(*named, settings=part, usual=usual))
    if fitted.failed:
        return _cleaned(fit=fitted)
    scored = _made(Scored, corpus.score(*named, settings=part, usual=usual))
    planned = applied = None
    if whole.has_policy and not any(item["passing"] for item in scored.failed):
        aside = tuple(item["shard"] for item in scored.failed)
        policy = _part(PlanSettings, whole)
        planned = _made(Planned, output.plan(whole.out, scores=scored.score_key, without=aside, settings=policy))
        form = _part(ApplySettings, whole)
        applied = _made(Applied, output.apply(whole.out, decision=planned.key, settings=form))
    reported = _made(
        Reported,
        output.report(
            whole.out,
            scores=None if planned else scored.score_key,
            decision=planned.key if planned else None,
            settings=_part(StorageSettings, whole),
        ),
    )
    return _cleaned(fit=fitted, score=scored, plan=planned, apply=applied, report=reported)


def lint(*sources: Url, **settings: Any) -> Result:
    """`ecif lint`: what is wrong with shards; `facts["findings"]` lists it.

    Raises:
        EcifError: the request or its input is refused; the message names the option.
    """
    return _made(Result, call(lint_command.lint, sources, settings))


def verify(out: Url, **settings: Any) -> Result:
    """`ecif verify`: prove that nothing but the dropped pairs is gone; `facts["ok"]` says whether it is so.

    Raises:
        EcifError: the request or its input is refused; the message names the option.
    """
    return _made(Result, call(verify_command.verify, (out,), settings))


def calibrate(out: Url, **settings: Any) -> Result:
    """`ecif calibrate`: what the canaries say about the scores; the numbers are in `facts`.

    Raises:
        EcifError: the request or its input is refused; the message names the option.
    """
    return _done(Result, call(calibrate_command.calibrate, (out,), settings))


def diff(out: Url, one: str, other: str, **settings: Any) -> Result:
    """`ecif diff`: two decisions side by side.

    Raises:
        EcifError: the request or its input is refused; the message names the option.
    """
    return _made(Result, call(diff_command.diff, (out, one, other), settings))


def restore(out: Url, **settings: Any) -> Result:
    """`ecif restore`: bring dropped or quarantined samples back; `everything=True` is `--all`.

    Raises:
        EcifError: the request or its input is refused; the message names the option.
    """
    return _done(Result, call(restore_command.restore, (out,), settings))


def export(out: Url, **settings: Any) -> Result:
    """`ecif export`: uid lists, tables and indexes for other tools.

    Raises:
        EcifError: the request or its input is refused; the message names the option.
    """
    return _done(Result, call(export_command.export, (out,), settings))


def trace(*sources: Url, **settings: Any) -> Result:
    """`ecif trace`: the pairs that an answer of the model comes from; `facts["cases"]` lists them.

    Raises:
        EcifError: the request or its input is refused; the message names the option.
    """
    return _done(Result, call(trace_command.trace, sources, settings))


def edit(*sources: Url, **settings: Any) -> Result:
    """`ecif edit`: write weights as if pairs had never been trained on.

    Raises:
        EcifError: the request or its input is refused; the message names the option.
    """
    return _done(Result, call(edit_command.edit, sources, settings))


def load_scores(out: Url, *, scores: str | None = None, **settings: Any) -> pl.LazyFrame:
    """All score tables of an output as one lazy polars table; the columns are those of docs/files.md.

    Args:
        scores: which ones, when the output holds several.
        settings: how to reach files: `storage_options`, `allow`, `patience`.

    Raises:
        EcifError: there are no scores; a table cannot be read (when the query runs).
    """
    from ecif.score_tables import scan

    refuse_unknown(settings, set(StorageSettings.model_fields))
    layout, storage = place(str(out), build(StorageSettings, plain(StorageSettings, settings)))
    return scan(layout, storage, scores)


def _part(group: type[G], whole: Settings) -> G:
    """The settings of a stage, out of those of all."""
    return build(group, {name: getattr(whole, name) for name in group.model_fields})


def _told(answer: Answer) -> tuple[str, dict[str, Any]]:
    return answer.text, answer.value


def _made(kind: type[R], answer: Answer) -> R:
    return kind.of(*_told(answer))


def _done(kind: type[R], answer: Answer) -> Any:
    return _made(Rehearsed if answer.value.get("dry_run") else kind, answer)


def _cleaned(**stages: Result | None) -> Cleaned:
    reached = {name: stage for name, stage in stages.items() if stage is not None}
    facts = {name: dict(stage.facts) for name, stage in reached.items()}
    return Cleaned("\n".join(stage.text for stage in reached.values()), facts, **reached)  # type: ignore[arg-type]
