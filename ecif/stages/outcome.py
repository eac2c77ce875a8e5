"""What a decision comes to, before anything is written: counts and bytes, overall, by shard and by group.

It asks the same verdicts as `apply`, so the counts are those that the manifests will have; only entries of lists that
name URLs or image digests are left out, because they need the tars. Bytes are a share of the shard's size: what a
single pair takes is known when it is copied. One pass over the score tables, kept in a file that may be deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass
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
from ecif.selection import IDENTITY
from ecif.stages.plan import scored_shards
from ecif.storage import Storage
from ecif.verdicts import DENIED, DROP, KEEP, QUARANTINE, judge

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
    storage.publish_json(layout.outcome(decision.key), {"version": VERSION, **asdict(found)}, replace=True)
    return found


def stored(layout: Layout, storage: Storage, decision: Decision) -> Outcome | None:
    """What was counted before, for the shards that there were; None where nothing was, or by another version."""
    try:
        return _read(storage.read_json(layout.outcome(decision.key)))
    except MissingFileError:
        return None


def count(
    layout: Layout, storage: Storage, decision: Decision, shards: Collection[Shard], progress: Progress = Silent()
) -> Outcome:
    """Count over the score tables of these shards."""
    chosen = lists.read(decision, layout, storage)
    by_name = {shard.name: shard for shard in shards}
    tables = Tables(storage, {name: layout.scores(decision.score_key, name) for name in by_name}, beside_of(shards))
    column = decision.by if decision.by in OF_SCORES else BESIDE + decision.by
    actions: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    parts: list[Part] = []
    groups: dict[str | None, list[int]] = {}
    gone_bytes = 0.0
    progress.stage("plan: count", len(by_name), "shards")
    try:
        for name, table in tables.stream(decision.rule, extra=IDENTITY):
            verdicts = judge(table, decision, chosen)
            actions.update(dict(verdicts["action"].value_counts().iter_rows()))
            gone = verdicts["action"] != KEEP
            reasons.update(dict(verdicts.filter(gone)["reason"].value_counts().iter_rows()))
            if table.height:
                gone_bytes += by_name[name].size * (int(gone.sum()) / table.height)
            # What the denylist names was named by a person: no outlier.
            counted = gone & ~verdicts["reason"].fill_null("").str.starts_with(DENIED)
            parts.append(Part(name, table.height, int(counted.sum())))
            if decision.by:
                by_group = pl.DataFrame({"group": table[column].cast(pl.String), "gone": counted}).group_by("group")
                for group, pairs, n in by_group.agg(n=pl.len(), gone=pl.col("gone").sum()).iter_rows():
                    sums = groups.setdefault(group, [0, 0])
                    sums[0] += pairs
                    sums[1] += n
            progress.advance()
    finally:
        progress.end()
    of_groups = [Part(group, pairs, n) for group, (pairs, n) in groups.items()]
    unusual = outliers(parts, "shard", FEWEST_SHARDS) + outliers(of_groups, "group", FEWEST_GROUPS)
    known = {cut.group for cut in decision.groups}
    rates = [0] * BINS
    for part in parts:
        rates[min(int(part.rate * BINS), BINS - 1)] += 1
    top = sorted((part for part in parts if part.gone), key=lambda part: (-part.rate, part.name or ""))
    largest = sorted(of_groups, key=lambda part: (-part.pairs, part.name or ""))
    return Outcome(
        decision_key=decision.key,
        shards=len(parts),
        pairs=sum(actions.values()),
        kept=actions[KEEP],
        dropped=actions[DROP],
        quarantined=actions[QUARANTINE],
        reasons=dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        bytes=sum(shard.size for shard in shards),
        bytes_gone=round(gone_bytes),
        rates=rates,
        top_shards=[(part.name, part.pairs, part.gone) for part in top[:MOST_LISTED]],
        by=decision.by,
        n_groups=len(of_groups),
        groups=[(part.name, part.pairs, part.gone) for part in largest[:MOST_LISTED]],
        outliers=unusual[:MOST_LISTED],
        n_outliers=len(unusual),
        elsewhere=sum(part.pairs for part in of_groups if decision.groups and part.name not in known),
    )


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
