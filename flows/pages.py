"""The texts and tables that Prefect shows of a run, all of bounded size and all but one made from what lies in storage.

A run that was resumed, and a run that found nothing to do, show the same as the run that did all the work. What only
one run can know, the seconds that its stages took, is a table of its own.
"""

from __future__ import annotations

import base64
import heapq
from collections.abc import Mapping, Sequence
from typing import Any

from ecif.report import figures
from ecif.report.distribution import QUANTILES
from ecif.report.numbers import Numbers
from ecif.report.numerals import integer, number, percent
from ecif.report.page import histogram
from ecif.selection import Decision
from ecif.stability import Drift
from flows.counts import ShardCount
from flows.markdown import escaped, link, table, wrapped
from flows.outcome import Outcome

ROWS = 200
LISTED = 20
COLUMNS = ("shard", "state", "samples", "kept", "dropped", "quarantined", "unscored", "reason")


def row(item: ShardCount) -> dict[str, Any]:
    """A shard's row of the table."""
    return {
        "shard": item.shard,
        "state": "scored" if item.kept is None else "written",
        "samples": item.samples,
        "kept": item.kept,
        "dropped": item.dropped,
        "quarantined": item.quarantined,
        "unscored": item.unscored,
    }


class Worst:
    """The rows of the shards that lost the largest share of their samples, at most `limit` of them."""

    def __init__(self, limit: int = ROWS) -> None:
        self._limit = limit
        self._heap: list[tuple[float, str, dict[str, Any]]] = []

    def add(self, row: dict[str, Any], lost: int, samples: int) -> None:
        """Offer a row; `row["shard"]` names its shard, once."""
        entry = (lost / samples if samples else 1.0, row["shard"], row)
        if len(self._heap) < self._limit:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def rows(self) -> list[dict[str, Any]]:
        """Worst first, equals by name."""
        return [row for _, _, row in sorted(self._heap, key=lambda entry: (-entry[0], entry[1]))]


def shards(outcome: Outcome, worst: Worst, inputs: Mapping[str, str]) -> list[dict[str, Any]]:
    """At most ROWS rows: failed shards, then those that lost the most.

    Args:
        inputs: URLs of the shards' tars, by name, as far as they are known.
    """
    failed = [
        {"shard": item["shard"], "state": f"failed in {item['stage']}", "reason": wrapped(item["reason"])}
        for item in outcome.failed[:ROWS]
    ]
    chosen = [*failed, *worst.rows()][:ROWS]
    return [
        {name: item.get(name) for name in COLUMNS} | {"shard": link(item["shard"], inputs.get(item["shard"], ""))}
        for item in chosen
    ]


def pairs(numbers: Numbers, report: str | None, inputs: Mapping[str, str]) -> list[dict[str, Any]]:
    """The worst pairs by the deciding score, the worst first, as many as the report shows.

    Args:
        report: URL of the report, which shows their pictures.
        inputs: as in `shards`.
    """
    columns = dict.fromkeys((numbers.detector.column, "influence", "clip_score"))
    return [
        {"rank": place}
        | {"pair": escaped(pair.key), "shard": link(pair.shard, inputs.get(pair.shard, "")), "index": pair.index}
        | {column.replace("_", " "): number(pair.scores.get(column)) for column in columns}
        | {"fate": "dropped" if pair.dropped else "kept"}
        | {"picture": link("report", report, "pairs") if report else ""}
        for place, pair in enumerate(numbers.sets["worst"], 1)
    ]


def scores(decision: Decision | None, numbers: Numbers) -> str:
    """The histogram of the deciding score, and quantiles of all scores."""
    column = numbers.detector.column
    lines = [f"# {column.replace('_', ' ')} of {integer(numbers.ok)} pairs", ""]
    drawing = histogram(decision, numbers, figures.WIDE)
    if drawing is not None:
        data = base64.b64encode(figures.alone(drawing, figures.WIDE).encode()).decode()
        lines += [f"![histogram of the deciding score](data:image/svg+xml;base64,{data})", ""]
    if numbers.line is not None:
        worse = "above" if numbers.detector.higher_is_worse else "below"
        lines += [
            f"Cut: {number(numbers.line, 6)}; pairs {worse} it are dropped, {integer(numbers.cut)} in all.",
            "",
        ]
    heads = ["score", "lowest", *(f"{q:.0%}".replace("50%", "median") for q in QUANTILES), "highest"]
    rows = [
        [
            name.replace("_", " "),
            number(sketch.smallest),
            *(number(sketch.quantile(q)) for q in QUANTILES),
            number(sketch.largest),
        ]
        for name, sketch in numbers.sketches.items()
        if sketch.count
    ]
    return "\n".join([*lines, *table(heads, rows)]) + "\n"


def drift(found: Drift) -> str:
    """How far the scores of new shards are from those that the direction was fitted on."""
    verdict = "Drifted" if found.drifted else "As before"
    rows = [
        ("new shards", integer(found.shards)),
        ("new pairs", integer(found.pairs)),
        ("of them without a score", f"{integer(found.unscored)} ({percent(found.unscored, found.pairs)})"),
        ("pairs of the reference", integer(found.reference_pairs)),
        ("stability index (PSI)", f"{found.psi:.3f}"),
        ("its limit", f"{found.limit:.3f}"),
        ("largest distance (KS)", f"{found.ks:.3f}"),
    ]
    return "\n".join([f"# {verdict}", "", f"{found.headline()}.", "", *table(("", ""), rows)]) + "\n"


def stages(outcome: Outcome) -> list[dict[str, Any]]:
    """Seconds of this run by stage."""
    total = sum(outcome.seconds.values()) or 1.0
    return [
        {"stage": stage, "seconds": round(seconds, 1), "share": f"{seconds / total:.0%}"}
        for stage, seconds in outcome.seconds.items()
    ]


def outcome_page(outcome: Outcome) -> str:
    """The outcome."""
    lines = [f"# {escaped(outcome.out)}", "", f"{outcome.headline()}."]
    if outcome.cut:
        lines += ["", f"Dropped: {escaped(outcome.cut)}."]
    if outcome.expected:
        lines += ["", f"{escaped(outcome.expected)}."]
    if outcome.report:
        lines += ["", f"Report: {link(outcome.report, outcome.report)}"]
    total = outcome.kept + outcome.dropped + outcome.quarantined
    counts = [
        ("pairs", integer(outcome.pairs), ""),
        ("kept", integer(outcome.kept), percent(outcome.kept, total)),
        ("dropped", integer(outcome.dropped), percent(outcome.dropped, total)),
        ("quarantined", integer(outcome.quarantined), percent(outcome.quarantined, total)),
        ("not scored", integer(outcome.unscored), percent(outcome.unscored, outcome.pairs)),
        ("shards", integer(outcome.shards), ""),
        ("shards scored", integer(outcome.scored), percent(outcome.scored, outcome.shards)),
        ("shards written", integer(outcome.written), percent(outcome.written, outcome.shards)),
        ("shards failed", integer(len(outcome.failed)), percent(len(outcome.failed), outcome.shards)),
        ("missing in brace ranges", integer(outcome.missing), ""),
    ]
    lines += ["", *table(("", "number", "share"), counts)]
    if outcome.statuses:
        every = sum(outcome.statuses.values())
        rows = [(f"`{name}`", integer(n), percent(n, every)) for name, n in sorted(outcome.statuses.items())]
        lines += ["", *table(("status", "pairs", "share"), rows)]
    lines += _set_aside(outcome.failed)
    lines += ["", f"Scores `{outcome.score_key}`, decision `{outcome.decision_key or 'none'}`."]
    return "\n".join(lines) + "\n"


def _set_aside(failed: Sequence[Mapping[str, Any]]) -> list[str]:
    if not failed:
        return []
    lines = ["", "## Set aside", ""]
    lines += [
        f"- {escaped(item['shard'])} ({item['stage']}, {'may pass' if item['passing'] else 'data'}): "
        f"{escaped(item['reason'])}"
        for item in failed[:LISTED]
    ]
    return lines + ([f"- and {integer(len(failed) - LISTED)} more"] if len(failed) > LISTED else [])
