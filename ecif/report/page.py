"""From numbers to words: what the report says, in sentences and rows, put into template.html."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from ecif import __version__, detectors
from ecif.layout import Layout
from ecif.report import figures, outcome
from ecif.report.distribution import QUANTILES
from ecif.report.gallery import Exhibit
from ecif.report.numbers import Numbers, Problem, ScoredPair
from ecif.report.numerals import integer, number, percent, plural
from ecif.report.outcome import DONE
from ecif.report.templates import fill
from ecif.selection import Decision
from ecif.settings import PolicySettings, Settings
from ecif.shards.decode import OK, STATUSES

PROBLEMS_SHOWN = 100
_INFLUENCE_COLUMNS = ("influence", "positive_influence", "negative_influence")


@dataclass(frozen=True, slots=True)
class Card:
    """One pair of the gallery."""

    place: int
    pair: ScoredPair
    exhibit: Exhibit


def render(
    layout: Layout, decision: Decision | None, numbers: Numbers, shown: Mapping[tuple[str, int], Exhibit]
) -> bytes:
    """The page as UTF-8 HTML."""
    counts = outcome.count(decision, numbers)
    return fill(
        "template.html",
        out=layout.root,
        headline=outcome.headline(decision, numbers, counts),
        state=outcome.state(decision, numbers, counts),
        tiles=outcome.tiles(decision, numbers, counts),
        share=outcome.share(counts),
        detector=numbers.detector,
        about_influence=numbers.detector.column in _INFLUENCE_COLUMNS,
        wide=histogram(decision, numbers, figures.WIDE),
        narrow=histogram(decision, numbers, figures.NARROW),
        beyond=_beyond(numbers),
        decided=decision is not None,
        quantiles=[f"{q:.0%}".replace("50%", "median").replace("%", " %") for q in QUANTILES],
        distributions=[
            (detectors.facts(column), sketch, [sketch.quantile(q) for q in QUANTILES])
            for column, sketch in numbers.sketches.items()
            if sketch.count
        ],
        galleries=_galleries(numbers, shown),
        columns=_columns(numbers),
        statuses=_statuses(decision, numbers),
        top=numbers.top if numbers.scored > 1 else [],
        percent=percent,
        problems=numbers.problems[:PROBLEMS_SHOWN],
        more_problems=len(numbers.problems) - PROBLEMS_SHOWN,
        missing=[Problem(url, "named in a range, but it does not exist") for url in numbers.missing[:PROBLEMS_SHOWN]],
        more_missing=len(numbers.missing) - PROBLEMS_SHOWN,
        policy=_policy(decision),
        settings=_settings(numbers),
        facts=[("ecif", __version__), *sorted(numbers.versions.items()), *sorted(numbers.fit.items())],
        keys=_keys(decision),
    )


def histogram(decision: Decision | None, numbers: Numbers, frame: figures.Frame) -> Markup | None:
    """The distribution of the deciding score as a drawing; None when nothing is scored."""
    if numbers.histogram is None:
        return None
    fact, sketch = numbers.detector, numbers.sketches[numbers.detector.column]
    worse = ("better", "worse") if fact.higher_is_worse else ("worse", "better")
    cut = decision.line if decision else None
    title = (
        f"Histogram of {fact.column} for {integer(sketch.count)} pairs: from {number(sketch.smallest)} to "
        f"{number(sketch.largest)}, median {number(sketch.quantile(0.5), 2)}"
    )
    if cut is not None:
        title += f"; {integer(numbers.cut)} pairs on the worse side of {number(cut)} are dropped"
    return figures.histogram(
        numbers.histogram,
        frame,
        axis=fact.column,
        cut=cut,
        label=f"cut {number(cut)}, {integer(numbers.cut)} dropped",
        ends=("removal helps", "removal hurts") if fact.column in _INFLUENCE_COLUMNS else worse,
        title=title,
    )


def _beyond(numbers: Numbers) -> str:
    bars = numbers.histogram
    if bars is None or not bars.below + bars.above:
        return ""
    sides = [(bars.below, "left"), (bars.above, "right")]
    words = [f"{plural(n, 'pair')} to the {side}" for n, side in sides if n]
    return f"The axis shows the bulk and leaves out {' and '.join(words)} of it."


def _columns(numbers: Numbers) -> list[str]:
    """The scores on a card, the deciding one first."""
    first = numbers.detector.column
    return [first, *(c for c in ("influence", "clip_score", "neg_clip_loss") if c != first)]


def _galleries(numbers: Numbers, shown: Mapping[tuple[str, int], Exhibit]) -> list[tuple[str, str, str, list[Card]]]:
    """Anchor, heading, sentence and cards of both halves."""
    column = numbers.detector.column
    if column in _INFLUENCE_COLUMNS:
        worst_name, best_name = "Most harmful pairs", "Most valuable pairs"
    else:
        worst_name, best_name = f"Worst pairs by {column}", f"Best pairs by {column}"
    positive = sum((pair.scores[column] or 0) >= 0 for pair in numbers.sets["worst"])
    worst_note = {
        "influence": "The lowest influence first: removing these is predicted to lower the validation loss the most.",
    }.get(column, "The worst first.")
    if column == "influence" and positive:
        worst_note += f" Not so for {integer(positive)} of them, whose influence is not negative."
    best_note = {
        "influence": "The highest influence first: removing these is predicted to raise the validation loss the most.",
    }.get(column, "The best first.")

    def cards(pairs: list[ScoredPair]) -> list[Card]:
        return [Card(place, pair, shown[pair.shard, pair.index]) for place, pair in enumerate(pairs, 1)]

    halves = [
        ("harmful", worst_name, worst_note, cards(numbers.sets["worst"])),
        ("valuable", best_name, best_note, cards(numbers.sets["best"])),
    ]
    return [half for half in halves if half[3]]


def _statuses(decision: Decision | None, numbers: Numbers) -> list[tuple[str, int, str, str]]:
    """Status, count, what it means, what happened; `ok` first, then the most frequent."""
    fate = DONE[decision.unscored] if decision else "to be decided"
    scored = f"{integer(numbers.ok - numbers.cut)} kept, {integer(numbers.cut)} dropped" if decision else fate
    order = sorted(numbers.statuses.items(), key=lambda item: (item[0] != OK, -item[1], item[0]))
    return [
        (status, count, STATUSES.get(status, "a status of another version"), scored if status == OK else fate)
        for status, count in order
    ]


def _policy(decision: Decision | None) -> list[tuple[str, str]]:
    if decision is None:
        return []
    cut = "none" if decision.threshold is None else number(decision.threshold, 8)
    if decision.groups:
        cut = f"one in each of {plural(len(decision.groups), 'group')}"
    if decision.tie is not None:
        cut += f"; of the pairs with exactly this score those up to uid {decision.tie[0]}, key {decision.tie[1]}"
    words = [(f"--{name.replace('_', '-')}", str(value)) for name, value in decision.policy.items()]
    return [
        ("--detector", f"{decision.detector} ({'higher' if decision.higher_is_worse else 'lower'} is worse)"),
        *words,
        ("--unscored", decision.unscored),
        ("cut", cut),
        ("made from", f"{plural(decision.shards, 'shard')}, {plural(decision.n_ok, 'scored pair')}"),
        ("drops", f"{integer(decision.n_dropped)} of them"),
    ]


def _settings(numbers: Numbers) -> list[tuple[str, str, str]]:
    """Option, value and meaning of what the scores depend on; the policy stands elsewhere."""
    rows = []
    for name, value in numbers.settings.items():
        if name in PolicySettings.model_fields:
            continue
        about = Settings.model_fields.get(name)
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        description = (about.description or "") if about is not None else ""
        rows.append((f"--{name.replace('_', '-')}", "default" if value is None else text, description))
    return rows


def _keys(decision: Decision | None) -> list[tuple[str, str]]:
    if decision is None:
        return []
    return [("fit", decision.fit_key), ("scores", decision.score_key), ("decision", decision.key)]
