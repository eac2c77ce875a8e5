"""What a decision comes to by shard: as it was counted when it was planned, or else from what the report has read.

The count of a plan asks lists and duplicates, too; the report's own knows the score and the rule for pairs without one,
and nothing of groups. So where lists decide as well, and nothing was counted for these shards, nothing is said.
"""

from __future__ import annotations

from ecif.inventory import Inventory
from ecif.layout import Layout
from ecif.policy.decision import Decision
from ecif.policy.guard import FEWEST_SHARDS, Part, outliers
from ecif.report.tally import Tally
from ecif.stages.outcome import BINS, MOST_LISTED, Outcome, stored
from ecif.storage import Storage


def effect(layout: Layout, storage: Storage, inventory: Inventory, decision: Decision, tally: Tally) -> Outcome | None:
    """The outcome, without reading a score table.

    Raises:
        StorageError: the storage failed.
    """
    known = stored(layout, storage, decision)
    if known is not None and known.shards == len(tally.shards):
        return known
    listed = (decision.denylist, decision.allowlist, decision.override_drop, decision.override_keep)
    return None if any((*listed, decision.duplicates)) else counted(inventory, decision, tally)


def counted(inventory: Inventory, decision: Decision, tally: Tally) -> Outcome:
    """What the tally says; samples that share their key are not looked at."""
    sizes = {shard.name: shard.size for shard in inventory.shards}
    gone = {"keep": 0, "drop": 0, "quarantine": 0}
    parts, lost = [], 0.0
    for name, rows, ok, cut in tally.shards.select("shard", "rows", "ok", "cut").sort("shard").iter_rows():
        unscored = rows - ok if decision.unscored != "keep" else 0
        gone[decision.dropped] += cut
        gone[decision.unscored] += unscored
        parts.append(Part(name, rows, cut + unscored))
        lost += sizes.get(name, 0) * parts[-1].rate
    pairs = sum(part.pairs for part in parts)
    reasons = {"policy": int(tally.shards["cut"].sum())}
    if decision.unscored != "keep":
        reasons |= {f"unscored:{status}": n for status, n in tally.statuses.items() if status != "ok"}
    rates = [0] * BINS
    for part in parts:
        rates[min(int(part.rate * BINS), BINS - 1)] += 1
    unusual = outliers(parts, "shard", FEWEST_SHARDS)
    top = sorted((part for part in parts if part.gone), key=lambda part: (-part.rate, part.name or ""))
    return Outcome(
        decision_key=decision.key,
        shards=len(parts),
        pairs=pairs,
        kept=pairs - gone["drop"] - gone["quarantine"],
        dropped=gone["drop"],
        quarantined=gone["quarantine"],
        reasons=dict(sorted(((name, n) for name, n in reasons.items() if n), key=lambda item: (-item[1], item[0]))),
        bytes=sum(sizes.get(part.name or "", 0) for part in parts),
        bytes_gone=round(lost),
        rates=rates,
        top_shards=[(part.name, part.pairs, part.gone) for part in top[:MOST_LISTED]],
        by=decision.by,
        n_groups=0,
        groups=[],
        outliers=unusual[:MOST_LISTED],
        n_outliers=len(unusual),
        elsewhere=0,
    )
