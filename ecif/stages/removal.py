"""Which pairs an edit removes: what a decision drops, or what a file names, found in the score tables.

Only counts are kept, by shard; the pairs of a shard are looked up again when it is worked on, so that memory does
not grow with the corpus.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import polars as pl

from ecif import keys
from ecif.errors import InputError, UsageError
from ecif.policy.tables import beside_of, joined
from ecif.run import Run
from ecif.scores import stream_scores
from ecif.selection import dropped_mask
from ecif.shards.decode import OK
from ecif.stages.plan import load_decision
from ecif.stages.scored import scored_shards

Members = Callable[[pl.DataFrame], pl.Series]
"""A shard's score table -> which of its rows are to go, scored or not."""


@dataclass(frozen=True, slots=True)
class Removal:
    """D: what is to be removed.

    Attributes:
        members: finds D in a score table. columns: of the table that it needs.
        counts: scored members by shard, shards without any left out. unscored: other members, by status.
        key: names this edit; from the scores' key and the members.
    """

    members: Members
    columns: tuple[str, ...]
    counts: dict[str, int]
    unscored: dict[str, int]
    key: str

    @property
    def pairs(self) -> int:
        """Scored pairs in D."""
        return sum(self.counts.values())


def by_decision(run: Run, key: str | None) -> Removal:
    """D is what a decision drops.

    Args:
        key: of the decision; None: the applied one, else the only one there is.

    Raises:
        UsageError: there is no such decision, or it was made from other scores than those of the settings.
    """
    decision = load_decision(run.layout, run.storage, key)
    if decision.score_key != run.score_key:
        raise UsageError(
            f"the decision {decision.key} was made from the scores {decision.score_key}, but these settings have "
            f"{run.score_key}; give the settings that the corpus was scored with"
        )
    rule, beside = decision.rule, beside_of(run.inventory.shards)

    def members(table: pl.DataFrame) -> pl.Series:
        url = beside.get(table["shard"][0]) if table.height else None
        return dropped_mask(joined(table, url, rule, run.storage), decision)

    return _survey(run, members, ("uid", *rule.columns))


def by_names(run: Run, url: str) -> Removal:
    """D is listed in a file: one uid or `shard/key` per line.

    Raises:
        InputError: a name stands for no pair of the scored corpus, or the file is no text.
    """
    try:
        lines = run.storage.read_bytes(url).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError("is not a text file of uids or shard/key, one per line", url=url) from error
    names = dict.fromkeys(line.strip() for line in lines if line.strip())
    listed = pl.Series("name", list(names), dtype=pl.String)
    places = pl.concat_str("shard", "key", separator="/")

    def members(table: pl.DataFrame) -> pl.Series:
        return table.select(members=pl.col("uid").is_in(listed.implode()) | places.is_in(listed.implode()))["members"]

    unknown = dict(names)

    def watched(table: pl.DataFrame) -> pl.Series:
        found = table.filter(members(table))
        for column in ("uid", places):
            for name in found.select(column).to_series():
                unknown.pop(name, None)
        return members(table)

    removal = _survey(run, watched, ("uid",))
    if unknown:
        first = ", ".join(list(unknown)[:3])
        lacking = len(run.inventory.shards) - len(scored_shards(run.layout, run.storage, run.score_key))
        hint = f"; {lacking:,} shards have no scores yet, run `ecif score` to find their pairs" if lacking > 0 else ""
        raise InputError(
            f"{len(unknown):,} of {len(names):,} names are of no pair of the corpus: {first}{hint}", url=url
        )
    return replace(removal, members=members)


def _survey(run: Run, members: Members, needed: tuple[str, ...]) -> Removal:
    """Count D in the score tables, and give it a name."""
    scored = scored_shards(run.layout, run.storage, run.score_key)
    names = [shard.name for shard in run.inventory.shards if shard.name in scored]
    if not names:
        raise UsageError(f"there are no scores for these settings in {run.layout.root}; run `ecif score` first")
    columns = tuple(dict.fromkeys(("shard", "key", "index", "status", *needed)))
    counts: dict[str, int] = {}
    unscored: Counter[str] = Counter()
    digest = hashlib.sha256()
    scores = {name: run.layout.scores(run.score_key, name) for name in names}
    for name, table in stream_scores(run.storage, scores, columns):
        gone = table.filter(members(table))
        unscored.update(status for status in gone["status"] if status != OK)
        rows = gone.filter(pl.col("status") == OK)["index"].to_list()
        if rows:
            counts[name] = len(rows)
            digest.update(json.dumps([name, rows]).encode())
    key = keys.digest({"scores": run.score_key, "removed": digest.hexdigest()})
    return Removal(members, columns, counts, dict(sorted(unscored.items())), key)
