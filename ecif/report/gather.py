"""The numbers of the report, from one reading of every score table and from the manifests.

What has been read is kept in the output (`tally`), so a run reads only the tables that have come since the last one,
and the listing of all of them. Memory does not grow with the number of pairs; of a shard its name, the size and tag of
its table, and three counts stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import Any

import polars as pl

from ecif import keys, lists, rollup
from ecif.calibration import state
from ecif.calibration.state import Calibration
from ecif.detectors import NAMES
from ecif.errors import MissingFileError
from ecif.inventory import Inventory
from ecif.layout import Layout
from ecif.lists import NO_LISTS, Lists
from ecif.policy.decision import Decision
from ecif.policy.tables import Tables, beside_of
from ecif.progress import Progress
from ecif.report.agreement import SHARE, Compared, compare
from ecif.report.deciding import Deciding
from ecif.report.distribution import Histogram, axis_range, bar_edges, count_bars, mirrored
from ecif.report.effect import effect
from ecif.report.numbers import Agreement, Disagreement, Numbers, Problem, Written
from ecif.report.sets import described, sets
from ecif.report.tally import SHOWN, Tally
from ecif.stages.scored import score_meta
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
    shown: int = SHOWN,
) -> Numbers:
    """Read score tables, manifests and meta data of an output.

    Args:
        shown: pairs in each set of the gallery, 1 to 200.

    Raises:
        InputError: one of them is broken.
    """
    settings, versions, fit = _meta(layout, storage, score_key)
    calibration = _calibration(layout, storage, decision, score_key, settings)
    columns = tuple(dict.fromkeys((*NAMES, *settings.get("columns", ()))))
    deciding = Deciding.of(decision, columns, calibration)
    numbers = Numbers(
        deciding.facts,
        len(inventory.shards),
        missing=inventory.missing,
        line=deciding.line,
        calibration=calibration,
        settings=settings,
        versions=versions,
        fit=fit,
    )
    tally = _tally(layout, storage, inventory, score_key, partial(Tally, score_key, deciding, shown), progress)
    given = NO_LISTS if decision is None else lists.read(decision, layout, storage)
    _counts(numbers, tally)
    numbers.sets = sets(tally, given)
    numbers.histogram = _histogram(numbers, tally)
    _compare(numbers, tally, given)
    if decision is not None and len(tally.shards):
        numbers.outcome = effect(layout, storage, inventory, decision, tally)
    known = pl.DataFrame({"shard": [shard.name for shard in inventory.shards]}, schema={"shard": pl.String})
    rows = known.join(tally.shards, on="shard", how="left", maintain_order="left")["rows"]
    written = _manifests(numbers, layout, storage, decision)
    for shard, n in zip(inventory.shards, rows, strict=True):
        if shard.name in failed:
            what = failed[shard.name]
        elif n is None:
            what = "no scores: scoring failed or has not run"
        elif shard.samples is not None and n != shard.samples:
            what = f"{n:,} rows of scores for {shard.samples:,} samples"
        elif written and shard.name not in written:
            what = "scored, but not written yet"
        else:
            continue
        numbers.problems.append(Problem(shard.name, what))
    return numbers


def _meta(layout: Layout, storage: Storage, score_key: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Settings, versions and fit, as far as they are there."""
    if not storage.exists(layout.score_meta(score_key)):
        return {}, {}, {}  # nothing could be scored
    meta = score_meta(layout, storage, score_key)
    settings, versions = (
        value if isinstance(value := meta.get(name), dict) else {} for name in ("settings", "versions")
    )
    url = layout.fit_meta(meta["fit_key"])
    fit = storage.read_json(url) if storage.exists(url) else None
    known = fit.items() if isinstance(fit, dict) else ()
    return settings, versions, {name: value for name, value in known if isinstance(value, str | int | float)}


def _calibration(
    layout: Layout, storage: Storage, decision: Decision | None, score_key: str, settings: Mapping[str, Any]
) -> Calibration | None:
    """What canaries said when the decision was made, or what was last asked of them; nothing is calibrated here."""
    key = "" if decision is None else decision.calibration
    if not key and (share := float(settings.get("canaries") or 0.0)):
        key = state.calibration_key(score_key, keys.canary_key(score_key, share), state.Choice())
    return state.load(layout, storage, key) if key and storage.exists(layout.calibration(key)) else None


def _tally(
    layout: Layout,
    storage: Storage,
    inventory: Inventory,
    score_key: str,
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
        for name, table in Tables(storage, urls, beside).stream(tally.deciding.rule, extra=tally.deciding.needs):
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


def _histogram(numbers: Numbers, tally: Tally) -> Histogram | None:
    fact, sketch, cut = numbers.detector, numbers.sketches[numbers.detector.column], numbers.line
    if not tally.kept.count + tally.dropped.count:
        return None
    low, high = axis_range(sketch, fact.column.endswith("influence"))
    if not fact.higher_is_worse:
        low, high, cut = -high, -low, None if cut is None else -cut
    edges = bar_edges(low, high, cut, max(tally.kept.shift, tally.dropped.shift))
    bars = count_bars(tally.kept, tally.dropped, edges, cut, tally.before)
    return bars if fact.higher_is_worse else mirrored(bars)


def _compare(numbers: Numbers, tally: Tally, given: Lists) -> None:
    """Agreement and disagreements of the scores."""
    columns = [(name, numbers.facts(name).higher_is_worse) for name in tally.deciding.columns]
    found = compare(tally.sample, columns)
    if found is None:
        return
    share = numbers.cut / numbers.ok if 0 < numbers.cut < numbers.ok else SHARE
    numbers.agreement = Agreement(found.columns, len(found.rows), share, found.spearman(), found.overlap(share))
    numbers.disagreements = [
        _disagreement(found, first, second, value, tally, given)
        for first, second, value in found.apart(numbers.detector.column)
    ]


def _disagreement(
    found: Compared, first: str, second: str, spearman: float, tally: Tally, given: Lists
) -> Disagreement:
    sides = found.extremes(first, second, max(1, tally.shown // 3))
    return Disagreement(first, second, spearman, *(described(rows, tally, given) for rows in sides))


def _manifests(numbers: Numbers, layout: Layout, storage: Storage, decision: Decision | None) -> set[str]:
    """Add up the manifests of this decision; returns the names of their shards."""
    if decision is None:
        return set()

    found = rollup.load(layout, storage).filter(pl.col("decision_key") == decision.key)
    kept, dropped, quarantined = (int(found[name].sum()) for name in ("kept", "dropped", "quarantined"))
    numbers.written = Written(len(found), kept, dropped, quarantined)
    return set(found["shard"])
