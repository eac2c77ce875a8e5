"""From numbers to words: what the report says, in sentences and rows, put into template.html."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from ecif import __version__, detectors
from ecif.layout import Layout
from ecif.policy.settings import PolicySettings
from ecif.report import cards, charts, figures, outcome, quality, review
from ecif.report.distribution import QUANTILES
from ecif.report.gallery import Exhibit
from ecif.report.numbers import Numbers, Problem
from ecif.report.numerals import integer, number, percent, plural
from ecif.report.outcome import DONE
from ecif.report.templates import fill
from ecif.selection import Decision
from ecif.settings import Settings
from ecif.shards.decode import OK, STATUSES

PROBLEMS_SHOWN = 100
SCRIPTS = ("gallery.js", "zoom.js", "overrides.js", "review.js")
_INFLUENCE_COLUMNS = ("influence", "positive_influence", "negative_influence")


def render(
    layout: Layout, decision: Decision | None, numbers: Numbers, shown: Mapping[tuple[str, int], Exhibit]
) -> bytes:
    """The page as UTF-8 HTML.

    Args:
        shown: image and caption of every pair of `cards.pairs`, by (shard, index).
    """
    counts, shelves = outcome.count(decision, numbers), cards.gallery(decision, numbers, shown)
    return fill(
        "template.html",
        scripts=SCRIPTS,
        out=layout.root,
        headline=outcome.headline(decision, numbers, counts),
        state=outcome.state(decision, numbers, counts),
        tiles=outcome.tiles(decision, numbers, counts),
        share=_bar(outcome.share(counts)),
        detector=numbers.detector,
        about_influence=numbers.detector.column in _INFLUENCE_COLUMNS,
        wide=histogram(decision, numbers, figures.WIDE),
        narrow=histogram(decision, numbers, figures.NARROW),
        beyond=_beyond(numbers),
        decided=decision is not None,
        control=decision is not None and decision.control is not None,
        quantiles=[f"{q:.0%}".replace("50%", "median").replace("%", " %") for q in QUANTILES],
        distributions=[
            (numbers.facts(column), sketch, [sketch.quantile(q) for q in QUANTILES])
            for column, sketch in numbers.sketches.items()
            if sketch.count
        ],
        **_trust(decision, numbers),
        charts=dict.fromkeys(("curves", "kinds", "scores", "rates"))
        | {one.name: one for one in charts.charts(numbers)},
        gallery=shelves,
        worse={column: numbers.facts(column).higher_is_worse for column in shelves.columns},
        kept_under=f"ecif-review {layout.root}",
        command=review.command(layout.root, decision),
        overrides_file=review.FILE,
        listed=decision is not None and bool(decision.denylist or decision.allowlist),
        reviewed=decision is not None and bool(decision.override_drop or decision.override_keep),
        written=numbers.written.shards > 0,
        statuses=_statuses(decision, numbers),
        top=numbers.top if numbers.scored > 1 else [],
        parts=_parts(numbers),
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


def _trust(decision: Decision | None, numbers: Numbers) -> dict[str, Any]:
    """What canaries say and where scores agree; None where there are no canaries or only one score."""
    found = numbers.calibration
    measured = found and {
        "planted": quality.planted(found),
        "pairs": found.pairs,
        "tables": quality.measured(found, decision.detector if decision else numbers.detector.column),
        "mistakes": quality.mistakes(found),
        "cut": quality.of_cut(found, decision) if decision else [],
        "weights": quality.learned(found),
        "learned": detectors.LEARNED,
    }
    agreed = numbers.agreement and {"pairs": numbers.agreement.pairs, "tables": quality.agreement(numbers.agreement)}
    return {"calibration": measured, "agreement": agreed, "disagreements": numbers.disagreements}


def _bar(share: list[tuple[str, float]]) -> list[tuple[str, float, float]]:
    """Kind, place and width of the parts of the bar under the tiles, in percent."""
    found, place = [], 0.0
    for kind, width in share:
        found.append((kind, round(place, 3), round(width, 3)))
        place += width
    return found


def _parts(numbers: Numbers) -> dict[str, Any] | None:
    """Removal by shard and group as the decision counts it; None before there is an outcome."""
    found = numbers.outcome
    if found is None:
        return None
    return {
        "shards": [("no name" if name is None else name, pairs, gone) for name, pairs, gone in found.top_shards],
        "by": found.by,
        "n_groups": found.n_groups,
        "groups": [("no value" if name is None else name, pairs, gone) for name, pairs, gone in found.groups],
        "outliers": [one.words for one in found.outliers],
        "more_outliers": found.n_outliers - len(found.outliers),
        "reasons": [*found.reasons.items()],
        "gone": found.pairs - found.kept,
        "elsewhere": found.elsewhere,
    }


def histogram(decision: Decision | None, numbers: Numbers, frame: figures.Frame) -> Markup | None:
    """The distribution of the deciding score as a drawing; None when nothing is scored."""
    if numbers.histogram is None:
        return None
    fact, sketch = numbers.detector, numbers.sketches[numbers.detector.column]
    worse = ("better", "worse") if fact.higher_is_worse else ("worse", "better")
    cut = numbers.line
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
