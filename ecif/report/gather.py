"""The numbers of the report, from two passes over the score tables and one over the manifests.

The first pass counts, sketches every score's distribution (65,536 bins, two exact digits) and keeps the few worst and
best pairs; the second fills the bars of the histogram, whose range the first one found. Memory does not grow with the
number of pairs; of a shard no more than its name and its number of rows stays.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from ecif import detectors, manifest
from ecif.ahead import ahead
from ecif.inventory import Inventory
from ecif.layout import Layout
from ecif.manifest import Manifest
from ecif.progress import Progress
from ecif.report.distribution import Histogram, Sketch, axis_range, bar_edges
from ecif.selection import IDENTITY, Decision, dropped_mask, stream_scores, worseness
from ecif.stages.plan import score_meta, scored_shards
from ecif.storage import Storage

SHOWN = 24  # pairs in each half of the gallery
TOP_SHARDS = 10


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A pair of the gallery: who it is, its scores by column, and whether the decision drops it."""

    uid: str
    key: str
    shard: str
    index: int
    scores: dict[str, float | None]
    dropped: bool


@dataclass(frozen=True, slots=True)
class Problem:
    """A shard that is not as it should be, and why."""

    shard: str
    what: str


@dataclass(slots=True)
class Written:
    """What the manifests say."""

    shards: int = 0
    kept: int = 0
    dropped: int = 0
    quarantined: int = 0


@dataclass(slots=True)
class Numbers:
    """Everything the page says.

    Attributes:
        detector: of the deciding score, or influence before any decision.
        shards, scored: in the inventory, and with scores.
        rows, statuses: pairs in the scored shards, in all and by status.
        cut: scored pairs that the decision drops. top: shards with the largest share of them: (share, cut, ok, name).
        sketches: distribution by score column. worst, best: pairs to show, from the extreme inwards.
        written: from the manifests of this decision. problems: in the order of the shards.
        settings, versions, fit: as they were saved with the scores and the fit.
    """

    detector: detectors.Facts
    shards: int
    scored: int = 0
    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    top: list[tuple[float, int, int, str]] = field(default_factory=list)
    sketches: dict[str, Sketch] = field(default_factory=dict)
    histogram: Histogram | None = None
    worst: list[ScoredPair] = field(default_factory=list)
    best: list[ScoredPair] = field(default_factory=list)
    written: Written = field(default_factory=Written)
    problems: list[Problem] = field(default_factory=list)
    missing: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> int:
        """Scored pairs."""
        return self.statuses["ok"]


def gather(
    layout: Layout,
    storage: Storage,
    inventory: Inventory,
    decision: Decision | None,
    score_key: str,
    failed: Mapping[str, str],
    progress: Progress,
) -> Numbers:
    """Read score tables, manifests and meta data of an output.

    Raises:
        InputError: one of them is broken.
    """
    detector = detectors.facts(decision.detector if decision else "influence")
    numbers = Numbers(detector, len(inventory.shards), missing=inventory.missing)
    done = scored_shards(layout, storage, score_key)
    names = [shard.name for shard in inventory.shards if shard.name in done]
    scores = {name: layout.scores(score_key, name) for name in names}
    numbers.scored = len(names)
    _meta(numbers, layout, storage, score_key)
    progress.stage("report", 2 * len(names), "shards")
    rows = _first_pass(numbers, storage, scores, decision, progress)
    numbers.histogram = _second_pass(numbers, storage, scores, decision, progress)
    progress.end()
    written = _manifests(numbers, layout, storage, decision)
    for shard in inventory.shards:
        if shard.name in failed:
            what = failed[shard.name]
        elif shard.name not in done:
            what = "no scores: scoring failed or has not run"
        elif shard.samples is not None and rows[shard.name] != shard.samples:
            what = f"{rows[shard.name]:,} rows of scores for {shard.samples:,} samples"
        elif written and shard.name not in written:
            what = "scored, but not written yet"
        else:
            continue
        numbers.problems.append(Problem(shard.name, what))
    return numbers


def _meta(numbers: Numbers, layout: Layout, storage: Storage, score_key: str) -> None:
    if not storage.exists(layout.score_meta(score_key)):
        return  # nothing could be scored
    meta = score_meta(layout, storage, score_key)
    for name in ("settings", "versions"):
        if isinstance(value := meta.get(name), dict):
            setattr(numbers, name, value)
    url = layout.fit_meta(meta["fit_key"])
    if storage.exists(url) and isinstance(fit := storage.read_json(url), dict):
        numbers.fit = {name: value for name, value in fit.items() if isinstance(value, str | int | float)}


def _first_pass(
    numbers: Numbers, storage: Storage, scores: dict[str, str], decision: Decision | None, progress: Progress
) -> dict[str, int]:
    """Fill in all but the histogram; returns the number of rows by shard."""
    rows: dict[str, int] = {}
    worst: pl.DataFrame | None = None
    best: pl.DataFrame | None = None
    added = numbers.settings.get("columns", ())
    numbers.sketches = {column: Sketch() for column in (*detectors.NAMES, *added)}
    for name, table in stream_scores(storage, scores, (*IDENTITY, "status", *numbers.sketches)):
        rows[name] = table.height
        numbers.rows += table.height
        numbers.statuses.update(dict(table["status"].value_counts().iter_rows()))
        fact = numbers.detector
        ok, worse = worseness(table, fact.column, fact.higher_is_worse, scores[name])
        for column, sketch in numbers.sketches.items():
            values = table[column].cast(pl.Float32).fill_null(float("nan")).to_numpy()[ok]
            sketch.add(values[np.isfinite(values)])
        dropped = _mask(table, decision)
        if (cut := int(dropped.sum())) > 0:
            numbers.cut += cut
            entry = (cut / worse.size, cut, worse.size, name)
            (heapq.heappush if len(numbers.top) < TOP_SHARDS else heapq.heappushpop)(numbers.top, entry)
        candidates = table.with_columns(dropped).filter(pl.Series(ok)).with_columns(pl.Series("worse", worse))
        worst = _extreme(worst, candidates, descending=False)
        best = _extreme(best, candidates, descending=True)
        progress.advance()
    numbers.top.sort(reverse=True)
    if worst is not None and best is not None:
        # A pair never stands on both sides: a small corpus is split in the middle.
        numbers.worst = _pairs(worst.head(min(SHOWN, (numbers.ok + 1) // 2)), list(numbers.sketches))
        numbers.best = _pairs(best.head(min(SHOWN, numbers.ok // 2)), list(numbers.sketches))
    return rows


def _mask(table: pl.DataFrame, decision: Decision | None) -> pl.Series:
    return dropped_mask(table, decision) if decision else pl.Series("dropped", np.zeros(table.height, dtype=bool))


def _extreme(so_far: pl.DataFrame | None, more: pl.DataFrame, descending: bool) -> pl.DataFrame:
    """The pairs at one end, the outermost first."""
    both = more if so_far is None else pl.concat([so_far, more])
    return both.sort("worse", *IDENTITY, descending=descending).head(SHOWN)


def _pairs(table: pl.DataFrame, columns: list[str]) -> list[ScoredPair]:
    return [
        ScoredPair(row["uid"], row["key"], row["shard"], row["index"], {c: row[c] for c in columns}, row["dropped"])
        for row in table.iter_rows(named=True)
    ]


def _second_pass(
    numbers: Numbers, storage: Storage, scores: dict[str, str], decision: Decision | None, progress: Progress
) -> Histogram | None:
    fact, sketch = numbers.detector, numbers.sketches.get(numbers.detector.column)
    if sketch is None or not sketch.count:
        return None
    edges = bar_edges(*axis_range(sketch, fact.column.endswith("influence")), decision.threshold if decision else None)
    # A pair that scores exactly the cut belongs to the side of the pairs that are dropped.
    side: Any = "right" if fact.higher_is_worse else "left"
    counts = np.zeros((2, len(edges) + 1), dtype=np.int64)
    for _, table in stream_scores(storage, scores, (*IDENTITY, "status", fact.column)):
        ok = (table["status"] == "ok").fill_null(False).to_numpy()
        values = table[fact.column].cast(pl.Float64).to_numpy()[ok]
        dropped = _mask(table, decision).to_numpy()[ok]
        bars = np.searchsorted(edges, values, side=side)
        for n, part in enumerate((bars[~dropped], bars[dropped])):
            counts[n] += np.bincount(part, minlength=len(edges) + 1)
        progress.advance()
    outside = counts.sum(axis=0)
    kept, dropped_counts = (tuple(row[1:-1].tolist()) for row in counts)
    return Histogram(tuple(edges.tolist()), kept, dropped_counts, int(outside[0]), int(outside[-1]))


def _manifests(numbers: Numbers, layout: Layout, storage: Storage, decision: Decision | None) -> set[str]:
    """Add up the manifests of this decision; returns the names of their shards."""
    if decision is None:
        return set()

    def read(name: str) -> Manifest | None:
        return manifest.read(layout, storage, name)

    names: set[str] = set()
    for entry in ahead(read, sorted(manifest.done(layout, storage))):
        if entry is not None and entry.decision_key == decision.key:
            names.add(entry.shard)
            numbers.written.shards += 1
            numbers.written.kept += entry.kept
            numbers.written.dropped += entry.dropped
            numbers.written.quarantined += entry.quarantined
    return names
