"""The pairs of the gallery, from the rows that a tally has kept: where each stands, and why it goes or stays.

Ranks come from sketches: exact for the deciding score until its sketch has to grow, otherwise right to the pairs that
share one of a thousand bins between a number and its double.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import polars as pl

from ecif.lists import Lists
from ecif.policy.decision import Decision
from ecif.report.distribution import share_worse
from ecif.report.numbers import SPARED, ScoredPair
from ecif.report.tally import Tally
from ecif.scores import IDENTITY
from ecif.shards.decode import OK
from ecif.verdicts import DENIED, DUPLICATE, OVERRIDE, named

MARK = 0.05
"""The share of worst pairs about which the borderline lies before there is a cut."""


def sets(tally: Tally, lists: Lists) -> dict[str, list[ScoredPair]]:
    """The pairs to show, by `numbers.SETS`.

    Args:
        lists: of the decision.
    """
    decision, shown = tally.deciding.decision, tally.shown
    ranked = tally.kept.count + tally.dropped.count
    going, staying = tally.going.rows, tally.staying.rows
    uncut = decision is None or not (decision.threshold is not None or decision.groups or decision.every)
    chosen = {
        # A pair never stands on both sides: a small corpus is split in the middle.
        "worst": _head(tally.worst.rows, min(shown, (ranked + 1) // 2)),
        "borderline": _about_mark(tally.sample, shown) if uncut else _both(going, staying),
        "best": _head(tally.best.rows, min(shown, ranked // 2)),
        "random": tally.sample.head(shown),
        "unscored": _spread(tally.unscored, shown),
    }
    return {name: described(rows, tally, lists) for name, rows in chosen.items()}


def described(rows: pl.DataFrame, tally: Tally, lists: Lists) -> list[ScoredPair]:
    """Pairs from rows of a tally, in their order."""
    if not len(rows):
        return []
    deciding = tally.deciding
    ranks = {name: _ranks(rows, name, tally) for name in deciding.columns if tally.sketches[name].count}
    found = []
    said = reasons(rows, deciding.decision, lists)
    for place, row in enumerate(rows.iter_rows(named=True)):
        scores = {name: row[name] if math.isfinite(row[name]) else None for name in deciding.columns}
        ok = row["status"] == OK
        found.append(
            ScoredPair(
                uid=row["uid"],
                key=row["key"],
                shard=row["shard"],
                index=row["index"],
                scores=scores,
                dropped=row["dropped"],
                ranks={name: float(of[place]) for name, of in ranks.items() if ok and scores[name] is not None},
                reason=said[place],
                status=row["status"],
                group=row["group"],
            )
        )
    return found


def reasons(rows: pl.DataFrame, decision: Decision | None, lists: Lists) -> list[str]:
    """Why each pair goes by anything but its score or status, as `verdicts.judge` says it; `SPARED` where it stays.

    Entries that name URLs or image digests need the tars, and repeated keys the whole shard: they are left out.

    Args:
        rows: with `IDENTITY`, `status` and `dropped`.
    """
    if decision is None:
        return [""] * len(rows)
    deny = named(lists.deny, rows)
    allow, drop, keep = (named(given, rows) != "" for given in (lists.allow, lists.drop, lists.keep))
    found = []
    for place, (shard, index, status, dropped) in enumerate(
        rows.select("shard", "index", "status", "dropped").iter_rows()
    ):
        goes = dropped if status == OK else decision.unscored != "keep"
        same = _is_duplicate(lists.duplicates, shard, index) and not goes
        if deny[place]:
            found.append(DENIED + str(deny[place]))
        elif not allow[place] and drop[place]:
            found.append(OVERRIDE)
        elif allow[place] or keep[place]:
            found.append(SPARED if goes or same else "")
        else:
            found.append(DUPLICATE if same else "")
    return found


def _is_duplicate(places: Mapping[str, np.ndarray], shard: str, index: int) -> bool:
    return shard in places and bool((places[shard] == index).any())


def _ranks(rows: pl.DataFrame, name: str, tally: Tally) -> np.ndarray:
    values = np.nan_to_num(rows[name].to_numpy())  # what was no number gets no rank
    higher = tally.deciding.of_column(name).higher_is_worse
    if name == tally.deciding.facts.column:
        return share_worse([tally.kept, tally.dropped], values if higher else -values, True)
    return share_worse([tally.sketches[name]], values, higher)


def _head(rows: pl.DataFrame | None, n: int) -> pl.DataFrame:
    return pl.DataFrame() if rows is None else rows.head(n)


def _both(going: pl.DataFrame | None, staying: pl.DataFrame | None) -> pl.DataFrame:
    if going is None or staying is None:
        return pl.DataFrame()
    return pl.concat([going.reverse(), staying])


def _about_mark(sample: pl.DataFrame, shown: int) -> pl.DataFrame:
    """Where a cut would be, nobody knows before the last table is read; the sample has pairs on both sides of it."""
    if not len(sample):
        return sample
    order = sample.filter(pl.col("worse").is_not_nan()).sort("worse", *IDENTITY)
    place = math.floor(MARK * len(order))
    return order[max(0, place - (shown + 1) // 2) : place + shown // 2]


def _spread(unscored: pl.DataFrame, shown: int) -> pl.DataFrame:
    """As many of one status as of another, as far as there are; by status."""
    if not len(unscored):
        return unscored
    turn = unscored.with_columns(turn=pl.int_range(pl.len()).over("status"))
    return turn.sort("turn", "status", maintain_order=True).head(shown).sort("status", "turn").drop("turn")
