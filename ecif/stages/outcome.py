"""What a decision comes to, before anything is written: counts and bytes, overall, by shard and by group.

It asks the same verdicts as `apply`, so the counts are those that the manifests will have; only entries of lists that
name URLs or image digests are left out, because they need the tars. Bytes are a share of the shard's size: what a
single pair takes is known when it is copied.

Score and status are all there is to a shard in which no key occurs twice, as long as no list names pairs. What such a
shard loses follows from what the cut has seen, and its table is not read again. Other shards are judged pair by pair,
and all of them are where the cut was made before. The counts are kept in a file that may be deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl

from ecif import inventory, lists
from ecif.errors import MissingFileError, UsageError
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.policy.decision import Decision
from ecif.policy.guard import FEWEST_GROUPS, FEWEST_SHARDS, Outlier, Part, outliers
from ecif.policy.rule import BESIDE, OF_SCORES
from ecif.policy.tables import Tables, beside_of
from ecif.progress import Progress, Silent
from ecif.selection import IDENTITY, Cut
from ecif.shards.decode import OK
from ecif.stages.scored import scored_shards
from ecif.storage import Storage
from ecif.verdicts import DENIED, DROP, KEEP, MERGED, QUARANTINE, judge

VERSION = 1
MOST_LISTED = 20  # shards and groups that lose the most; outliers
BINS = 20  # of the histogram of the shards' rates


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a decision comes to for the shards that have scores.

    Attributes:
        decision_key: of the decision. shards: how many.
        pairs, kept, dropped, quarantined: of these shards. reasons: why pairs go, by reason.
        bytes, bytes_gone: of the tars, and about how many of them go.
        rates: how many shards lose 0 to 5 %, 5 to 10 %, ...
        top_shards: (name, pairs, gone) of those that lose the largest shares.
        by, n_groups, groups: the column of the groups, their number, and (value, pairs, gone) of the largest.
        outliers, n_outliers: shards and groups that lose far more than the rest (`policy.guard`).
        elsewhere: pairs of groups without a cut, because they came later or had no candidates.
    """

    decision_key: str
    shards: int
    pairs: int
    kept: int
    dropped: int
    quarantined: int
    reasons: dict[str, int]
    bytes: int
    bytes_gone: int
    rates: list[int]
    top_shards: list[tuple[str | None, int, int]]
    by: str
    n_groups: int
    groups: list[tuple[str | None, int, int]]
    outliers: list[Outlier]
    n_outliers: int
    elsewhere: int

    def lines(self) -> list[str]:
        """For people."""
        gone = self.pairs - self.kept
        found = [
            f"of {self.pairs:,} pairs in {self.shards:,} shards {self.kept:,} stay and {gone:,} go "
            f"({_share(gone, self.pairs)}; about {_size(self.bytes_gone)} of {_size(self.bytes)})"
        ]
        found += [f"  {reason}: {n:,}" for reason, n in self.reasons.items()] if len(self.reasons) > 1 else []
        if self.n_groups:
            found.append(f"by {self.by}, the largest of {self.n_groups:,} groups:")
            found += [
                f"  {'(no value)' if name is None else name}: {n:,} of {pairs:,} go ({_share(n, pairs)})"
                for name, pairs, n in self.groups
            ]
        if self.elsewhere:
            found.append(f"{self.elsewhere:,} pairs are of groups without a cut, and stay")
        if self.outliers:
            found.append("far more than the rest go from:")
            found += [f"  {one.words}" for one in self.outliers]
            more = self.n_outliers - len(self.outliers)
            found += [f"  and {more:,} more"] if more else []
            found.append("apply stops at this unless --guard off is given")
        return found


def check(layout: Layout, storage: Storage, decision: Decision, guard: str, progress: Progress = Silent()) -> None:
    """Stop before a decision is applied that takes far more from single shards or groups than from the rest.

    Asked only for the first time: an output that is bound to the decision has been through it.

    Args:
        guard: `on` or `off`.

    Raises:
        UsageError: there are such shards or groups; they are named.
    """
    if guard == "off" or storage.exists(layout.applied()):
        return
    found = of(layout, storage, decision, progress)
    if found.outliers:
        listed = "; ".join(one.words for one in found.outliers[:3])
        more = f"; and {found.n_outliers - 3:,} more" if found.n_outliers > 3 else ""
        raise UsageError(
            f"decision {decision.key} takes far more from some than from the rest: {listed}{more}. Look at them "
            f"(`ecif plan` lists them), and give --guard off if that is what you want"
        )


def of(layout: Layout, storage: Storage, decision: Decision, progress: Progress = Silent()) -> Outcome:
    """Count what a decision comes to, or read it where that has been done for the same shards.

    Raises:
        InputError: a score table or a list cannot be read.
    """
    scored = scored_shards(layout, storage, decision.score_key)
    chosen = [shard for shard in inventory.load(layout, storage).shards if shard.name in scored]
    known = stored(layout, storage, decision)
    if known is not None and known.shards == len(chosen):
        return known
    found = count(layout, storage, decision, chosen, progress)
    save(layout, storage, found)
    return found


def save(layout: Layout, storage: Storage, found: Outcome) -> None:
    """Keep what was counted, so that `of` need not count."""
    storage.publish_json(layout.outcome(found.decision_key), {"version": VERSION, **asdict(found)}, replace=True)


def stored(layout: Layout, storage: Storage, decision: Decision) -> Outcome | None:
    """What was counted before, for the shards that there were; None where nothing was, or by another version."""
    try:
        return _read(storage.read_json(layout.outcome(decision.key)))
    except MissingFileError:
        return None


def count(
    layout: Layout, storage: Storage, decision: Decision, shards: Collection[Shard], progress: Progress = Silent()
) -> Outcome:
    """Count over the score tables of these shards.

    Raises:
        InputError: a score table or a list cannot be read.
    """
    chosen = lists.read(decision, layout, storage)
    by_name = {shard.name: shard for shard in shards}
    sums = _Sums()
    progress.stage("plan: count", len(by_name), "shards")
    try:
        for name, table in _tables(layout, storage, decision, shards).stream(decision.rule, extra=IDENTITY):
            verdicts = judge(table, decision, chosen)
            sums.actions.update(dict(verdicts["action"].value_counts().iter_rows()))
            gone = verdicts["action"] != KEEP
            sums.reasons.update(dict(verdicts.filter(gone)["reason"].value_counts().iter_rows()))
            # What the denylist names was named by a person: no outlier.
            counted = gone & ~verdicts["reason"].fill_null("").str.starts_with(DENIED)
            sums.shard(by_name[name], table.height, int(gone.sum()), int(counted.sum()))
            if decision.by:
                by_group = pl.DataFrame({"group": _groups(table, decision), "gone": counted}).group_by("group")
                for group, pairs, n in by_group.agg(n=pl.len(), gone=pl.col("gone").sum()).iter_rows():
                    sums.group(group, pairs, n)
            progress.advance()
    finally:
        progress.end()
    return sums.outcome(decision, shards)


def count_cut(layout: Layout, storage: Storage, cut: Cut, shards: Collection[Shard]) -> Outcome:
    """Count what a decision without lists comes to, when it has just been made.

    Args:
        shards: all that it was made from.

    Raises:
        InputError: a table that has to be read once more cannot be.
    """
    decision, census = cut.decision, cut.census
    unscored_go = decision.unscored != KEEP
    gone, between, between_groups = dict(cut.gone), Counter[str](), Counter[str | None]()
    unclear = [name for name, twice in zip(census.shards, census.repeated, strict=True) if twice or name not in gone]
    for name, table in _tables(layout, storage, decision, shards).stream(decision.rule, unclear, IDENTITY):
        reasons = judge(table, decision)["reason"]
        gone[name] = int((reasons == "policy").sum())
        merged = (reasons == MERGED).fill_null(False)
        if unscored_go:
            merged &= (table["status"] == OK).fill_null(True)  # other rows with this reason are those of that status
        between[name] = int(merged.sum())
        if decision.by and merged.any():
            between_groups.update(_groups(table, decision).filter(merged))
    sums, by_name = _Sums(), {shard.name: shard for shard in shards}
    for name, rows, unscored in zip(census.shards, census.rows, census.unscored, strict=True):
        n = gone[name] + between[name] + (unscored if unscored_go else 0)
        sums.shard(by_name[name], rows, n, n)
    for group, (pairs, unscored) in census.groups.items():
        n = cut.by_group.get(group, 0) + between_groups[group] + (unscored if unscored_go else 0)
        sums.group(group, pairs, n)
    unscored = sum(census.unscored)
    stay = sum(census.rows) - decision.n_dropped - unscored - between.total()
    sums.actions.update({KEEP: stay, QUARANTINE: between.total()})
    sums.actions.update({decision.dropped: decision.n_dropped})
    sums.actions.update({decision.unscored: unscored})
    sums.reasons.update({"policy": decision.n_dropped, MERGED: between.total()})
    sums.reasons.update({f"unscored:{status}": n for status, n in census.statuses.items()} if unscored_go else {})
    sums.reasons = +sums.reasons  # without zeros
    return sums.outcome(decision, shards)


@dataclass(slots=True)
class _Sums:
    """What is added up, shard after shard in the order of their names."""

    actions: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    parts: list[Part] = field(default_factory=list)
    groups: dict[str | None, list[int]] = field(default_factory=dict)
    gone_bytes: float = 0.0

    def shard(self, shard: Shard, rows: int, gone: int, counted: int) -> None:
        """Pairs of a shard, those that go, and those of them that count for the guard."""
        if rows:
            self.gone_bytes += shard.size * (gone / rows)
        self.parts.append(Part(shard.name, rows, counted))

    def group(self, name: str | None, pairs: int, gone: int) -> None:
        """Pairs of a group in some shards, and those that go."""
        sums = self.groups.setdefault(name, [0, 0])
        sums[0] += pairs
        sums[1] += gone

    def outcome(self, decision: Decision, shards: Collection[Shard]) -> Outcome:
        """All of it."""
        of_groups = [Part(group, pairs, n) for group, (pairs, n) in self.groups.items()]
        unusual = outliers(self.parts, "shard", FEWEST_SHARDS) + outliers(of_groups, "group", FEWEST_GROUPS)
        known = {cut.group for cut in decision.groups}
        rates = Counter(min(int(part.rate * BINS), BINS - 1) for part in self.parts)
        top = sorted((part for part in self.parts if part.gone), key=lambda part: (-part.rate, part.name or ""))
        largest = sorted(of_groups, key=lambda part: (-part.pairs, part.name or ""))
        return Outcome(
            decision_key=decision.key,
            shards=len(self.parts),
            pairs=self.actions.total(),
            kept=self.actions[KEEP],
            dropped=self.actions[DROP],
            quarantined=self.actions[QUARANTINE],
            reasons=dict(sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))),
            bytes=sum(shard.size for shard in shards),
            bytes_gone=round(self.gone_bytes),
            rates=[rates[place] for place in range(BINS)],
            top_shards=[(part.name, part.pairs, part.gone) for part in top[:MOST_LISTED]],
            by=decision.by,
            n_groups=len(of_groups),
            groups=[(part.name, part.pairs, part.gone) for part in largest[:MOST_LISTED]],
            outliers=unusual[:MOST_LISTED],
            n_outliers=len(unusual),
            elsewhere=sum(part.pairs for part in of_groups if decision.groups and part.name not in known),
        )


def _tables(layout: Layout, storage: Storage, decision: Decision, shards: Collection[Shard]) -> Tables:
    urls = {shard.name: layout.scores(decision.score_key, shard.name) for shard in shards}
    return Tables(storage, urls, beside_of(shards))


def _groups(table: pl.DataFrame, decision: Decision) -> pl.Series:
    """The groups of the rows."""
    return table[decision.by if decision.by in OF_SCORES else BESIDE + decision.by].cast(pl.String)


def _read(value: Any) -> Outcome | None:
    """What was counted before; None where it is of another version."""
    if not isinstance(value, dict) or value.pop("version", None) != VERSION:
        return None
    value["outliers"] = [Outlier(**one) for one in value["outliers"]]
    return Outcome(**value | {name: [tuple(row) for row in value[name]] for name in ("top_shards", "groups")})


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "0 %"


def _size(n: int) -> str:
    value, units = float(n), iter(("bytes", "kB", "MB", "GB", "TB", "PB"))
    unit = next(units)
    while value >= 1000 and (larger := next(units, None)):
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"
