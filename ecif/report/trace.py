"""The page of a trace: each test pair with what the model makes of it, and the pairs of the corpus behind that.

Like the report it is one file that needs nothing beside it; its script enlarges, filters and sorts what is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ecif import __version__
from ecif.progress import Progress, Silent
from ecif.report.cards import alt
from ecif.report.gallery import Exhibit, exhibit, exhibits
from ecif.report.numbers import ScoredPair
from ecif.report.numerals import integer, number, plural
from ecif.report.templates import fill
from ecif.run import Run
from ecif.stages.cases import Asked
from ecif.stages.trace import SIDES, Contribution, Options, Side, Traced

SCRIPTS = ("gallery.js", "zoom.js")
SHOWN = 24  # pairs of a side on the page; the table has all
_QUOTE = 60  # characters of a caption in a heading
_HEADINGS: dict[Side, tuple[str, str, str]] = {
    "responsible": ("neg", "Responsible pairs", "Removing these is predicted to lower the loss above"),
    "supporting": ("pos", "Supporting pairs", "Removing these is predicted to raise the loss above"),
}
_ORDERS = {
    "influence": "the largest change first",
    "relative": "the largest relative-IS first",
    "theta-relative": "the largest change per length of the parameters' move first (theta-RelatIF)",
    "l-relative": "the largest change per root of self-influence first (l-RelatIF)",
}
_NAMES = {"relative": "relative-IS", "theta-relative": "theta-RelatIF", "l-relative": "l-RelatIF"}


@dataclass(frozen=True, slots=True)
class Number:
    """A number on a card: its name, as it is read, and in full (`-`: not known)."""

    name: str
    text: str
    exact: str


@dataclass(frozen=True, slots=True)
class Card:
    """A pair of the corpus."""

    place: int
    pair: Contribution
    exhibit: Exhibit
    alt: str
    numbers: list[Number]


@dataclass(frozen=True, slots=True)
class Shelf:
    """One side of a case."""

    name: Side
    kind: str
    heading: str
    note: str
    cards: list[Card]


@dataclass(frozen=True, slots=True)
class CaseOnPage:
    """A test pair: where it is on the page, what the model makes of it, and both sides."""

    anchor: str
    name: str
    exhibit: Exhibit
    alt: str
    facts: list[tuple[str, str]]
    sides: list[Shelf]


def pictures(run: Run, traced: Traced, progress: Progress = Silent()) -> dict[tuple[str, int], Exhibit]:
    """Images and captions of all pairs that were found, by (shard, index)."""
    pairs = {(c.shard, c.index): c for side in traced.found.values() for c in side}
    wanted = (ScoredPair(c.uid, c.key, c.shard, c.index, {}, False) for c in pairs.values())
    return exhibits(wanted, run.inventory.by_name(), run.storage, run.settings.caption, progress)


def build_trace_page(
    run: Run,
    key: str,
    asked: list[Asked],
    traced: Traced,
    options: Options,
    shown: Mapping[tuple[str, int], Exhibit],
    notes: Iterable[str] = (),
) -> bytes:
    """The page as UTF-8 HTML.

    Args:
        shown: see `pictures`. notes: what a reader should know before the numbers.
    """
    state = list(notes)
    if traced.failed:
        state.append(f"{plural(len(traced.failed), 'shard')} could not be read; their pairs are not considered.")
    return fill(
        "trace.html",
        scripts=SCRIPTS,
        columns=[_NAMES.get(column, column) for column in _columns(options.rank_by)],
        headline=headline(asked),
        corpus=f"Traced through {plural(traced.pairs, 'pair')} of {plural(len(run.inventory.shards), 'shard')}.",
        state=state,
        cases=[_case(n, one, traced, options, shown) for n, one in enumerate(asked)],
        ranked_by=_NAMES.get(options.rank_by, options.rank_by),
        relative=traced.by_index or options.probes > 0,
        error=_error(traced),
        facts=_facts(run, key, traced, options),
        table=run.layout.trace(key),
    )


def headline(asked: list[Asked]) -> str:
    """What was asked about, in one line."""
    wrong = sum(one.rank > 1 for one in asked)
    if len(asked) > 1:
        return f"{integer(len(asked))} test pairs traced, {integer(wrong)} of them answered wrongly"
    (one,) = asked
    if wrong:
        return f"The model answers {_quoted(one.answer)}, not {_quoted(one.case.caption)}"
    return f"The model answers {_quoted(one.answer)}, as it should"


def _quoted(caption: str) -> str:
    return f"“{caption[:_QUOTE]}{'…' if len(caption) > _QUOTE else ''}”"


def _case(n: int, one: Asked, traced: Traced, options: Options, shown: Mapping[tuple[str, int], Exhibit]) -> CaseOnPage:
    among = {"candidates": "candidates", "validation": "captions of the validation batch"}[one.competitors]
    facts = [
        ("Right caption", one.case.caption),
        ("The model's answer", one.answer if one.rank > 1 else f"{one.answer} (right)"),
        ("Rank of the right caption", f"{integer(one.rank)} of {integer(one.among)} {among}"),
        ("Loss that is traced", number(one.loss, 4)),
    ]
    if one.case.mistaken not in (None, one.answer):
        facts.insert(1, ("Asked about", str(one.case.mistaken)))
    sides = []
    for side in SIDES:
        found = traced.found[n, side]
        kind, heading, note = _HEADINGS[side]
        note = f"{note}, {_ORDERS[options.rank_by]}." if found else "There are none."
        if len(found) > SHOWN:
            note += f" The first {SHOWN} of {integer(len(found))}; the table has all."
        cards = [
            Card(
                place,
                c,
                (picture := shown[c.shard, c.index]),
                alt(picture, f"Image of pair {c.key}"),
                _numbers(c, options.rank_by),
            )
            for place, c in enumerate(found[:SHOWN], start=1)
        ]
        sides.append(Shelf(side, kind, heading, note, cards))
    picture = exhibit(one.case.image, one.case.caption)
    return CaseOnPage(
        f"case-{n + 1}", one.case.name, picture, f"Test image: {alt(picture, one.case.name)}", facts, sides
    )


def _columns(rank_by: str) -> list[str]:
    """The numbers on a card: always few, and what it was ranked by among them."""
    further = [rank_by] if rank_by in ("theta-relative", "l-relative") else []
    return ["influence", "relative", *further, "clip_score"]


def _numbers(c: Contribution, rank_by: str) -> list[Number]:
    """Those of `_columns`, also where one is not known, so that they stand at their places."""
    rows = []
    for column in _columns(rank_by):
        value: float | None = getattr(c, column.replace("-", "_"))
        sign = "+" if column == "influence" and value is not None and value > 0 else ""
        text = sign + number(value, 2 if column == "relative" else 3)
        rows.append(Number(_NAMES.get(column, column), text, "-" if value is None else repr(float(value))))
    return rows


def _error(traced: Traced) -> str:
    """The standard error of relative-IS as a share of it: it follows from the number of probes and is one for all."""
    for side in traced.found.values():
        for c in side:
            if c.relative and c.relative_se:
                return f"{c.relative_se / c.relative:.0%}".replace("%", " %")
    return ""


def _facts(run: Run, key: str, traced: Traced, options: Options) -> list[tuple[str, str]]:
    if traced.by_index:
        source = "projected gradients that were stored with the scores; relative forms are exact"
    elif options.probes:
        source = (
            f"one pass of the model over the corpus; relative forms estimated from {integer(options.probes)} probes"
        )
    else:
        source = "one pass of the model over the corpus"
    return [
        ("Output", run.layout.root),
        ("Computed from", source),
        ("Order", _ORDERS[options.rank_by]),
        ("Model", f"{run.settings.model}, {run.settings.pretrained}"),
        ("Parameters", run.settings.trainable),
        ("key of the trace", key),
        ("key of the fit", run.fit_key),
        ("ecif", __version__),
    ]
