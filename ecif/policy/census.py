"""What the first reading of the score tables says of every shard, whatever is cut.

The cut needs the scores, and the guard needs to know what every shard and group loses. Both follow from one reading if
what the guard asks of a pair without a score, and of the names of samples, is noted on the way: a few numbers a shard.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field

import polars as pl

from ecif.policy.rule import BESIDE, OF_SCORES, View
from ecif.shards.decode import OK

NEEDED = ("key",)
"""Columns of a score table that `Census.add` looks at beside those of the rule."""


@dataclass(slots=True)
class Census:
    """Counts over S shards, in the order in which they came.

    Args:
        by: the column of the groups; empty without.

    Attributes:
        shards: their names.
        rows, scored, unscored, candidates: pairs of each; those with a score; those with another status; those that may
            go. A pair may have no status at all.
        repeated: whether two samples have one key, so that what goes between them matters (`verdicts.judge`).
        statuses: pairs without a score, by status.
        groups: pairs of each group, and those of them without a score.
    """

    by: str = ""
    shards: list[str] = field(default_factory=list)
    rows: array[int] = field(default_factory=lambda: array("q"))
    scored: array[int] = field(default_factory=lambda: array("q"))
    unscored: array[int] = field(default_factory=lambda: array("q"))
    candidates: array[int] = field(default_factory=lambda: array("q"))
    repeated: array[int] = field(default_factory=lambda: array("b"))
    statuses: Counter[str] = field(default_factory=Counter)
    groups: dict[str | None, tuple[int, int]] = field(default_factory=dict)

    def add(self, name: str, table: pl.DataFrame, view: View) -> None:
        """Take in the table of a shard; its rows with `NEEDED` and what the rule looks at, and what that made of it."""
        unscored = {}
        if view.scored < table.height:
            found = table["status"].drop_nulls().value_counts().iter_rows()
            unscored = {status: n for status, n in found if status != OK}
            self.statuses.update(unscored)
        self.shards.append(name)
        self.rows.append(table.height)
        self.scored.append(view.scored)
        self.unscored.append(sum(unscored.values()))
        self.candidates.append(view.worse.size)
        self.repeated.append(table["key"].n_unique() < table.height)
        if self.by:
            column = table[self.by if self.by in OF_SCORES else BESIDE + self.by].cast(pl.String)
            lacking = (table["status"] != OK).fill_null(False)
            by_group = pl.DataFrame({"group": column, "lacking": lacking}).group_by("group")
            for group, pairs, n in by_group.agg(n=pl.len(), lacking=pl.col("lacking").sum()).iter_rows():
                before = self.groups.get(group, (0, 0))
                self.groups[group] = before[0] + pairs, before[1] + n
