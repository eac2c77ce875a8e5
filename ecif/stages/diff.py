"""Two decisions side by side: which pairs both drop, and which only one of them.

Both are asked for their verdicts shard by shard, lists and overrides included, so nothing has to be written first: plan
as often as you like, compare, and apply one. The decisions may rest on different scores, and lie in different outputs;
shards are matched by name, pairs by their place in the tar.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import polars as pl

from ecif import inventory, lists
from ecif.errors import InputError, UsageError
from ecif.layout import Layout
from ecif.policy.decision import Decision
from ecif.policy.tables import Tables, beside_of
from ecif.progress import Progress, Silent
from ecif.selection import IDENTITY
from ecif.stages.scored import scored_shards
from ecif.storage import Storage
from ecif.verdicts import KEEP, judge

MOST_LISTED = 20  # shards
EXAMPLES = 10  # pairs on each side


@dataclass(frozen=True, slots=True)
class Side:
    """A decision, and the output that it is in."""

    layout: Layout
    storage: Storage
    decision: Decision


@dataclass(frozen=True, slots=True)
class Example:
    """A pair that only one decision drops, and why: its score and place in the shard by that decision."""

    uid: str
    key: str
    shard: str
    reason: str
    score: float | None
    rank: int | None


@dataclass(frozen=True, slots=True)
class Difference:
    """Attributes:
    one, other: keys of the decisions.
    pairs, both, only_one, only_other: in all shards that both have scores of, and of these pairs those that go.
    shards: (name, both, only one, only other) where they differ the most.
    examples_one, examples_other: pairs that only one drops, the first to go by it.
    lacking: shards that only one of them has scores of.
    """

    one: str
    other: str
    pairs: int
    both: int
    only_one: int
    only_other: int
    shards: list[tuple[str, int, int, int]]
    examples_one: list[Example]
    examples_other: list[Example]
    lacking: int

    def lines(self) -> list[str]:
        """For people."""
        union = self.both + self.only_one + self.only_other
        shared = f"{self.both / union:.1%} of what either drops" if union else "neither drops any"
        found = [
            f"of {self.pairs:,} pairs both drop {self.both:,} ({shared}), only {self.one} {self.only_one:,}, "
            f"only {self.other} {self.only_other:,}"
        ]
        if self.lacking:
            found.append(f"{self.lacking:,} shards have scores for only one of them, and are left out")
        if self.shards:
            found.append("shards where they differ the most:")
            found += [f"  {name}: both {b:,}, only one {x:,}, only other {y:,}" for name, b, x, y in self.shards]
        for key, examples in ((self.one, self.examples_one), (self.other, self.examples_other)):
            if examples:
                found.append(f"only {key} drops, for example:")
                found += [f"  {one.shard}/{one.key} ({one.reason}, {_number(one.score)})" for one in examples]
        return found


def difference(one: Side, other: Side, progress: Progress = Silent()) -> Difference:
    """Compare two decisions.

    Raises:
        UsageError: no shard has scores for both.
        InputError: a table cannot be read, or two tables of one name are of different tars.
    """
    sides = (one, other)
    names = [set(_scored(side)) for side in sides]
    shared = sorted(names[0] & names[1])
    if not shared:
        raise UsageError("these decisions have no shard in common that both have scores of")
    chosen = [lists.read(side.decision, side.layout, side.storage) for side in sides]
    streams = [_tables(side).stream(side.decision.rule, shared, IDENTITY) for side in sides]
    totals = [0, 0, 0, 0]  # pairs, both, only one, only other
    shards: list[tuple[int, str, int, int, int]] = []
    examples: list[list[tuple[float, str, int, Example]]] = [[], []]
    progress.stage("diff", len(shared), "shards")
    try:
        for (name, first), (_, second) in zip(*streams, strict=True):
            if first.height != second.height or (first["key"] != second["key"]).any():
                problem = (
                    f"shard {name} holds other samples here than in {one.layout.root}; compare outputs of one corpus"
                )
                raise InputError(problem, url=other.layout.scores(other.decision.score_key, name))
            verdicts = [judge(t, s.decision, c) for t, s, c in zip((first, second), sides, chosen, strict=True)]
            gone = [found["action"] != KEEP for found in verdicts]
            counts = tuple(int(both.sum()) for both in (gone[0] & gone[1], gone[0] & ~gone[1], gone[1] & ~gone[0]))
            totals = [a + b for a, b in zip(totals, [first.height, *counts], strict=True)]
            if differ := counts[1] + counts[2]:
                shards = sorted([*shards, (-differ, name, counts[0], counts[1], counts[2])])[:MOST_LISTED]
            for n, side in enumerate(sides):
                only = verdicts[n].filter(gone[n] & ~gone[1 - n])
                examples[n] = heapq.nsmallest(EXAMPLES, [*examples[n], *_examples(only, name, side.decision)])
            progress.advance()
    finally:
        progress.end()
    return Difference(
        one=one.decision.key,
        other=other.decision.key,
        pairs=totals[0],
        both=totals[1],
        only_one=totals[2],
        only_other=totals[3],
        shards=[entry[1:] for entry in shards],
        examples_one=[entry[-1] for entry in examples[0]],
        examples_other=[entry[-1] for entry in examples[1]],
        lacking=len(names[0] ^ names[1]),
    )


def _scored(side: Side) -> list[str]:
    scored = scored_shards(side.layout, side.storage, side.decision.score_key)
    return [shard.name for shard in inventory.load(side.layout, side.storage).shards if shard.name in scored]


def _tables(side: Side) -> Tables:
    urls = {name: side.layout.scores(side.decision.score_key, name) for name in _scored(side)}
    return Tables(side.storage, urls, beside_of(inventory.load(side.layout, side.storage).shards))


def _examples(verdicts: pl.DataFrame, shard: str, decision: Decision) -> list[tuple[float, str, int, Example]]:
    """The first few to go of one shard, with what they are sorted by."""
    sign = -1.0 if decision.higher_is_worse else 1.0
    rows = verdicts.sort("rank", nulls_last=True).head(EXAMPLES).iter_rows(named=True)
    return [
        (
            float("inf") if row["score"] is None else sign * row["score"],
            shard,
            row["index"],
            Example(row["uid"], row["key"], shard, row["reason"], row["score"], row["rank"]),
        )
        for row in rows
    ]


def _number(score: float | None) -> str:
    return "no score" if score is None else f"{score:.6g}"
