"""Which pairs go: an exact number of them, ties included, without ever holding the corpus in memory.

A policy names a fraction, a number or a threshold, of the corpus or of each of its groups; making the cut turns it into
a score, and into the pair up to which those that tie at it go (`ecif/ranking.py` finds both). The trade-off is one look
at every pair of the corpus before the first one can be dropped, for a cut that drops exactly as many as were asked for.

The result, a `Decision`, is a cut that holds for every row on its own: whether a pair goes can be told from its row
and the decision alone, in any order, on any machine, and also for shards that arrive later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif.calibration.learned import Model
from ecif.detectors import facts
from ecif.errors import UsageError
from ecif.policy.census import Census
from ecif.policy.decision import Decision, GroupCut
from ecif.policy.rule import Rule, View
from ecif.policy.settings import CUTS, PolicySettings
from ecif.policy.tables import Tables
from ecif.ranking import Ranking
from ecif.scores import IDENTITY, Identity, identities
from ecif.storage import Storage

__all__ = ["IDENTITY", "Cut", "Decision", "GroupCut", "choose", "dropped_mask", "make_cut", "ranks"]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Cut:
    """A decision, and what is known of the shards without another look at their tables.

    Attributes:
        census: of the score tables.
        gone: pairs that its score drops, by shard; without shards of which only their tables tell.
        by_group: pairs that it drops, by group; one group, None, without groups.
    """

    decision: Decision
    census: Census
    gone: Mapping[str, int]
    by_group: Mapping[str | None, int]


NEEDED = "a decision needs a policy: give --drop, --keep, --threshold, --where, --dedup, --denylist or --overrides"


def dropped_mask(scores: pl.DataFrame, decision: Decision, view: View | None = None) -> pl.Series:
    """Which rows of one shard's score table the decision drops; rows without a score never are.

    Args:
        scores: n rows with `IDENTITY` and what `decision.rule` looks at (`policy.tables`).
        view: what that rule makes of them, where it has been asked already.

    Returns:
        n booleans, in the order of the rows.

    Raises:
        InputError: a row marked ok has no finite score.
    """
    view = view or _view(scores, decision)
    mask = np.zeros(scores.height, dtype=bool)
    if decision.every:
        mask[view.rows] = True
    elif view.groups is None or not decision.groups:
        _cut(mask, scores, view, np.ones(view.rows.size, dtype=bool), decision, decision.threshold, decision.tie)
    else:
        cuts = {cut.group: cut for cut in decision.groups}
        for group in view.groups.unique(maintain_order=True):
            if (cut := cuts.get(group)) is not None:  # a group that came later stays
                own = view.groups.is_null() if group is None else (view.groups == group).fill_null(False)
                _cut(mask, scores, view, own.to_numpy(), decision, cut.threshold, cut.tie)
    return pl.Series("dropped", mask)


def _cut(
    mask: Mask, scores: pl.DataFrame, view: View, own: Mask, decision: Decision, at: float | None, tie: Identity | None
) -> None:
    """Mark the rows of one group that lie behind its cut."""
    if at is None:
        return
    cut = -at if decision.higher_is_worse else at
    exact = view.worse.astype(np.float64)  # a threshold given by a person need not be a float32
    mask[view.rows[own & (exact < cut)]] = True
    if tie is not None and (level := view.rows[own & (exact == cut)]).size:
        mask[level] = [identity <= tie for identity in identities(scores, level)]


def ranks(scores: pl.DataFrame, decision: Decision) -> pl.Series:
    """The place of each row among the candidates of its shard, 1 = worst, in the order in which pairs are dropped.

    Returns:
        n numbers (u32), null for rows that are no candidates.
    """
    view = _view(scores, decision)
    table = scores[view.rows].select(IDENTITY).with_columns(pl.Series("worse", view.worse), pl.Series("row", view.rows))
    order = table.sort("worse", *IDENTITY)["row"].to_numpy()
    places = np.zeros(scores.height, dtype=np.uint32)
    places[order] = np.arange(1, order.size + 1, dtype=np.uint32)
    return pl.Series("rank", places, dtype=pl.UInt32).replace(0, None)


def _view(scores: pl.DataFrame, decision: Decision) -> View:
    where = f"scores {decision.score_key} of shard {scores['shard'][0] if scores.height else '(empty)'}"
    return decision.rule.view(scores, where)


def choose(storage: Storage, scores: Mapping[str, str], policy: PolicySettings, **more: Any) -> Decision:
    """The decision of `make_cut`, whose arguments these are."""
    return make_cut(storage, scores, policy, **more).decision


def make_cut(
    storage: Storage,
    scores: Mapping[str, str],
    policy: PolicySettings,
    *,
    key: str,
    score_key: str,
    fit_key: str,
    beside: Mapping[str, str] = MappingProxyType({}),
    model: Model | None = None,
    threshold: float | None = None,
) -> Cut:
    """Turn a policy into a cut, exactly.

    A fraction drops floor(fraction * candidates), or keeps so many; a count likewise; ties go by uid, then key, shard
    and index. A threshold drops what is strictly worse. Candidates are the scored pairs, or those of them for which
    `where` is true. With `by`, all of it holds in each group.

    Args:
        scores: shard name -> URL of its score table; the order does not matter.
        policy: must be one (`has_policy`).
        key, score_key, fit_key: names to put in the decision.
        beside: shard name -> URL of the parquet beside it, for `by`, `where` and `rank_by`.
        model: of the learned detector, where `policy.detector` names it.
        threshold: where the policy asks for a precision, the one that has it.

    Raises:
        UsageError: no policy, an infinite threshold, or a count above the number of candidates; a column that no table
            has, or too many groups.
        InputError: a score file is broken, or a row marked ok has no finite score.
    """
    if not policy.has_policy:
        raise UsageError(NEEDED)
    if policy.threshold is not None and not math.isfinite(policy.threshold):
        raise UsageError(f"--threshold {policy.threshold} is not finite; use --drop 0 or --drop 1 for none or all")
    at = policy.threshold if threshold is None else threshold
    worse = facts(policy.detector).higher_is_worse and not policy.rank_by
    rule = Rule(policy.detector, worse, policy.rank_by, policy.where, policy.by, model=model)
    tables = Tables(storage, scores, beside)
    tables.check(rule)
    ranking = candidates = Ranking.read(tables, rule)
    places: list[tuple[float | None, Identity | None]] = []
    gone: Mapping[str, int]
    if at is not None:
        counted, gone = ranking.count_worse(at)
        sizes = [int(n) for n in counted]
        places = [(at, None)] * len(sizes)
    else:
        sizes = _sizes(policy, ranking)
    every = bool(policy.where) and policy.cut is None and policy.control is None
    if every:
        gone = dict(zip(ranking.census.shards, ranking.census.candidates, strict=True))
    elif policy.control is not None:
        rule = Rule(policy.detector, False, by=policy.by, control=policy.control)
        by_policy = dict(zip(ranking.groups, sizes, strict=True))
        candidates = Ranking.read(tables, rule)
        sizes = [by_policy.get(group, 0) for group in candidates.groups]
    if policy.control is not None or (at is None and not every):
        worst = candidates.worst(sizes)
        places, gone = [place or (None, None) for place in worst.places], worst.gone
    groups: tuple[GroupCut, ...] = ()
    # A threshold is the same in every group, also in one that comes later: then groups are only for the reader.
    grouped = bool(policy.by) and not every and (at is None or policy.control is not None)
    if grouped:
        cuts = [
            GroupCut(group, *place, n, size)
            for group, place, n, size in zip(candidates.groups, places, map(int, candidates.counts), sizes, strict=True)
        ]
        groups = tuple(sorted(cuts, key=lambda cut: (cut.group is not None, cut.group or "")))
    at_all, tie = places[0] if places and not grouped else (None, None)
    n_candidates = int(candidates.counts.sum())
    given = policy.model_dump(
        mode="json",
        include={*CUTS, "where", "rank_by", "by", "dedup", "control"},
        exclude_none=True,
        exclude_defaults=True,
    )
    decision = Decision(
        key=key,
        score_key=score_key,
        fit_key=fit_key,
        detector=policy.detector,
        higher_is_worse=rule.higher_is_worse,
        policy=given,
        unscored=policy.unscored,
        threshold=at_all,
        tie=tie,
        n_rows=ranking.n_rows,
        n_ok=ranking.n_ok,
        n_dropped=sum(sizes),
        shards=len(scores),
        dropped=policy.dropped,
        rank_by=rule.rank_by,
        where=rule.where,
        by=rule.by,
        control=rule.control,
        every=every,
        groups=groups,
        model=None if rule.model is None else rule.model.to_json(),
        candidates=None if n_candidates == ranking.n_ok else n_candidates,
    )
    return Cut(decision, candidates.census, gone, dict(zip(candidates.groups, sizes, strict=True)))


def _sizes(policy: PolicySettings, ranking: Ranking) -> list[int]:
    """How many pairs of each group go, where no threshold says it."""
    counts = [int(n) for n in ranking.counts]
    if policy.cut is None:
        return counts if policy.where else [0] * len(counts)
    if policy.drop is not None:
        return [_part(policy.drop, n) for n in counts]
    if policy.keep is not None:
        return [n - _part(policy.keep, n) for n in counts]
    if policy.keep_count is not None:
        return [max(0, n - policy.keep_count) for n in counts]
    count = policy.drop_count or 0
    for group, n in zip(ranking.groups, counts, strict=True):
        if count > n:
            what = "pairs that could be scored" if not policy.where else "scored pairs for which --where is true"
            where = f" of the group {group!r}" if policy.by else ""
            raise UsageError(f"--drop-count {count} is more than the {n} {what}{where}")
    return [count] * len(counts)


def _part(fraction: Decimal, whole: int) -> int:
    """floor(fraction * whole) in integers, so that no decimal is ever rounded."""
    numerator, denominator = fraction.as_integer_ratio()
    return numerator * whole // denominator
