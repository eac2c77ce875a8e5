"""The numbers of the report, from one reading of every score table and from the manifests.

What has been read is kept in the output (`tally`), so a run reads only the tables that have come since the last one,
and the listing of all of them. Memory does not grow with the number of pairs; of a shard its name, the size and tag of
its table, and three counts stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice

import polars as pl

from ecif import detectors, rollup
from ecif.errors import MissingFileError
from ecif.inventory import Inventory
from ecif.layout import Layout
from ecif.policy.decision import Decision
from ecif.policy.rule import Rule
from ecif.policy.tables import Tables, beside_of
from ecif.progress import Progress
from ecif.report.distribution import Histogram, axis_range, bar_edges, count_bars, mirrored
from ecif.report.numbers import Numbers, Problem, ScoredPair, Written
from ecif.report.tally import SHOWN, Tally
from ecif.stages.plan import score_meta
from ecif.storage import Storage

TOP_SHARDS = 10
_FILES = {"shard": pl.String, "size": pl.Int64, "etag": pl.String}
_AT_A_TIME = 10_000  # shards whose names are held as such


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
    detector = detectors.facts(
        decision.detector if decision and decision.detector in detectors.COLUMNS else "influence"
    )
    numbers = Numbers(detector, len(inventory.shards), missing=inventory.missing)
    _meta(numbers, layout, storage, score_key)
    columns = dict.fromkeys((*detectors.NAMES, *numbers.settings.get("columns", ()), detector.column))
    empty = partial(Tally, score_key, (*columns,), detector, decision)
    rule = decision.rule if decision else Rule(detector.name, detector.higher_is_worse)
    tally = _tally(layout, storage, inventory, score_key, rule, empty, progress)
    _counts(numbers, tally)
    numbers.histogram = _histogram(numbers, tally, decision)
    known = pl.DataFrame({"shard": [shard.name for shard in inventory.shards]}, schema={"shard": pl.String})
    rows = known.join(tally.shards, on="shard", how="left", maintain_order="left")["rows"]
    written = _manifests(numbers, layout, storage, decision)
    for shard, found in zip(inventory.shards, rows, strict=True):
        if shard.name in failed:
            what = failed[shard.name]
        elif found is None:
            what = "no scores: scoring failed or has not run"
        elif shard.samples is not None and found != shard.samples:
            what = f"{found:,} rows of scores for {shard.samples:,} samples"
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


def _tally(
    layout: Layout,
    storage: Storage,
    inventory: Inventory,
    score_key: str,
    rule: Rule,
    empty: Callable[[], Tally],
    progress: Progress,
) -> Tally:
    """All score tables of the inventory, those that an earlier run has read from what it left."""
    files, beside = _files(layout, storage, inventory, score_key), beside_of(inventory.shards)
    tally = _kept(layout, storage, files, empty)
    new = files.join(tally.shards, on="shard", how="anti", maintain_order="left")
    progress.stage("report", len(new), "shards")
    for part in new.iter_slices(_AT_A_TIME):
        listed = {name: (size, etag) for name, size, etag in part.iter_rows()}
        urls = {name: layout.scores(score_key, name) for name in listed}
        for name, table in Tables(storage, urls, beside).stream(rule, extra=tally.needs):
            tally.add(name, *listed[name], table, urls[name])
            progress.advance()
    progress.end()
    if len(new):
        storage.publish(layout.report_rollup(tally.key), tally.save(), replace=True)
    return tally


def _files(layout: Layout, storage: Storage, inventory: Inventory, score_key: str) -> pl.DataFrame:
    """The score tables of the shards of the inventory, by one listing."""
    names = {shard.name for shard in inventory.shards}
    folder = storage.check(layout.scores_of(score_key)) + "/"
    found = pl.DataFrame(schema=_FILES)
    listing = (
        (name, file.size, file.etag)
        for file in storage.scan(folder, ".parquet")
        if (name := file.url.removeprefix(folder).removesuffix(".parquet")) in names
    )
    while page := [*islice(listing, _AT_A_TIME)]:
        found = pl.concat([found, pl.DataFrame(page, schema=_FILES, orient="row")])
    return found


def _kept(layout: Layout, storage: Storage, files: pl.DataFrame, empty: Callable[[], Tally]) -> Tally:
    """What an earlier run left, if it is whole, and all of its tables are there as they were; else an empty one."""
    tally = empty()
    try:
        data = storage.read_bytes(layout.report_rollup(tally.key))
    except MissingFileError:
        return tally
    fits = tally.load(data) and not len(tally.shards.join(files, on=[*_FILES], how="anti"))
    return tally if fits else empty()


def _counts(numbers: Numbers, tally: Tally) -> None:
    shards = tally.shards
    numbers.scored, numbers.rows, numbers.cut = len(shards), int(shards["rows"].sum()), int(shards["cut"].sum())
    numbers.statuses, numbers.tables = tally.statuses, shards.drop("size", "etag")
    numbers.sketches = tally.sketches
    share = (pl.col("cut") / pl.col("ok")).alias("share")
    top = shards.filter(pl.col("cut") > 0).select(share, "cut", "ok", "shard")
    numbers.top = [*top.sort(pl.all(), descending=True).head(TOP_SHARDS).iter_rows()]
    if tally.worst is not None and tally.best is not None:
        # A pair never stands on both sides: a small corpus is split in the middle.
        numbers.sets["worst"] = _pairs(tally.worst.head(min(SHOWN, (numbers.ok + 1) // 2)), list(numbers.sketches))
        numbers.sets["best"] = _pairs(tally.best.head(min(SHOWN, numbers.ok // 2)), list(numbers.sketches))


def _pairs(table: pl.DataFrame, columns: list[str]) -> list[ScoredPair]:
    return [
        ScoredPair(row["uid"], row["key"], row["shard"], row["index"], {c: row[c] for c in columns}, row["dropped"])
        for row in table.iter_rows(named=True)
    ]


def _histogram(numbers: Numbers, tally: Tally, decision: Decision | None) -> Histogram | None:
    fact, sketch = numbers.detector, numbers.sketches[numbers.detector.column]
    if not sketch.count:
        return None
    low, high = axis_range(sketch, fact.column.endswith("influence"))
    cut = decision.line if decision else None
    if not fact.higher_is_worse:
        low, high, cut = -high, -low, None if cut is None else -cut
    edges = bar_edges(low, high, cut, max(tally.kept.shift, tally.dropped.shift))
    bars = count_bars(tally.kept, tally.dropped, edges, cut, tally.level)
    return bars if fact.higher_is_worse else mirrored(bars)


def _manifests(numbers: Numbers, layout: Layout, storage: Storage, decision: Decision | None) -> set[str]:
    """Add up the manifests of this decision; returns the names of their shards."""
    if decision is None:
        return set()

    found = rollup.load(layout, storage).filter(pl.col("decision_key") == decision.key)
    kept, dropped, quarantined = (int(found[name].sum()) for name in ("kept", "dropped", "quarantined"))
    numbers.written = Written(len(found), kept, dropped, quarantined)
    return set(found["shard"])
