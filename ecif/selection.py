"""Which pairs go: an exact number of them, ties included, without ever holding the corpus in memory.

A policy names a fraction, a number or a threshold; making the cut turns it into a score, and into the pair up to which
those that tie at it go (`ecif/ranking.py` finds both). The trade-off is one look at every pair of the corpus before the
first one can be dropped, for a cut that drops exactly as many as were asked for.

The result, a `Decision`, is a cut that holds for every row on its own: whether a pair goes can be told from its row
and the decision alone, in any order, on any machine, and also for shards that arrive later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif.detectors import facts
from ecif.errors import InputError, UsageError
from ecif.ranking import Ranking
from ecif.scores import IDENTITY, Identity, identities, worseness
from ecif.settings import PolicySettings
from ecif.storage import Storage


@dataclass(frozen=True, slots=True)
class Decision:
    """A frozen cut.

    Attributes:
        key: names the decision; a hash of the score key and the policy.
        score_key, fit_key: the scores it was made from, and their fit.
        detector, higher_is_worse: the deciding score and its sense.
        policy: the policy as given, such as {"drop": "0.1"}.
        unscored: what happens to pairs without a score: keep, drop or quarantine.
        threshold: pairs worse than this score go; None: none goes.
        tie: of the pairs that score exactly `threshold`, those up to this one (uid, key, shard, index) go; None: none.
        n_rows, n_ok, n_dropped: pairs, scored pairs and pairs to drop when the cut was made.
        shards: the number of shards it was made from.
        dropped: what happens to pairs that the policy drops: drop or quarantine.
        denylist, allowlist: SHA-256 of the frozen lists (`layout.list_of`); empty where there is none.
    """

    key: str
    score_key: str
    fit_key: str
    detector: str
    higher_is_worse: bool
    policy: dict[str, Any]
    unscored: str
    threshold: float | None
    tie: Identity | None
    n_rows: int
    n_ok: int
    n_dropped: int
    shards: int
    dropped: str = "drop"
    denylist: str = ""
    allowlist: str = ""

    def to_json(self) -> dict[str, Any]:
        """The decision as it is written to a file."""
        return asdict(self) | {"tie": None if self.tie is None else list(self.tie)}

    @classmethod
    def from_json(cls, value: Any, url: str) -> Decision:
        """Read what `to_json` gave.

        Raises:
            InputError: the value, which came from `url`, is not a decision.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(value, dict) or set(value) != names:
            raise InputError("not a decision of this version; run plan again with a new --out", url=url)
        tie = value["tie"]
        if tie is not None:
            if not (isinstance(tie, list) and [type(part) for part in tie] == [str, str, str, int]):
                raise InputError(f"the tie is a list of uid, key, shard and index, not {tie!r}", url=url)
            tie = (tie[0], tie[1], tie[2], tie[3])
        threshold = value["threshold"]
        if threshold is not None and (type(threshold) not in (int, float) or not math.isfinite(threshold)):
            raise InputError(f"the threshold is a finite number or null, not {threshold!r}", url=url)
        return cls(**(value | {"tie": tie, "threshold": None if threshold is None else float(threshold)}))


def dropped_mask(scores: pl.DataFrame, decision: Decision) -> pl.Series:
    """Which rows of one shard's score table the decision drops; rows without a score never are.

    Args:
        scores: n rows with `uid`, `key`, `shard`, `index`, `status` and the deciding detector's column.

    Returns:
        n booleans, in the order of the rows.

    Raises:
        InputError: a row marked ok has no finite score.
    """
    ok, worse = _worseness_by(decision, scores)
    mask = np.zeros(scores.height, dtype=bool)
    if decision.threshold is not None:
        cut = -decision.threshold if decision.higher_is_worse else decision.threshold
        exact = worse.astype(np.float64)  # a threshold given by a person need not be a float32
        rows = np.flatnonzero(ok)
        mask[rows[exact < cut]] = True
        if decision.tie is not None and (level := rows[exact == cut]).size:
            mask[level] = [identity <= decision.tie for identity in identities(scores, level)]
    return pl.Series("dropped", mask)


def ranks(scores: pl.DataFrame, decision: Decision) -> pl.Series:
    """The place of each row among the scored rows of its shard, 1 = worst, in the order in which pairs are dropped.

    Returns:
        n numbers (u32), null for rows without a score.
    """
    ok, worse = _worseness_by(decision, scores)
    rows = np.flatnonzero(ok)
    table = scores[rows].select(IDENTITY).with_columns(pl.Series("worse", worse), pl.Series("row", rows))
    order = table.sort("worse", *IDENTITY)["row"].to_numpy()
    places: list[int | None] = [None] * scores.height
    for place, row in enumerate(order.tolist(), 1):
        places[row] = place
    return pl.Series("rank", places, dtype=pl.UInt32)


def _worseness_by(decision: Decision, scores: pl.DataFrame) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    where = f"scores {decision.score_key} of shard {scores['shard'][0] if scores.height else '(empty)'}"
    return worseness(scores, facts(decision.detector).column, decision.higher_is_worse, where)


def choose(
    storage: Storage, scores: Mapping[str, str], policy: PolicySettings, *, key: str, score_key: str, fit_key: str
) -> Decision:
    """Turn a policy into a cut, exactly.

    A fraction drops floor(fraction * scored pairs), a count that many; ties go by uid, then key, shard and index. A
    threshold drops what is strictly worse. Pairs that are not `ok` never count.

    Args:
        scores: shard name -> URL of its score table; the order does not matter.
        policy: one of drop, drop_count and threshold must be set.
        key, score_key, fit_key: names to put in the decision.

    Raises:
        UsageError: no policy, an infinite threshold, or a count above the number of scored pairs.
        InputError: a score file is broken, or a row marked ok has no finite score.
    """
    if not policy.has_policy:
        raise UsageError("a decision needs a policy: give --drop, --drop-count, --threshold or --denylist")
    if policy.threshold is not None and not math.isfinite(policy.threshold):
        raise UsageError(f"--threshold {policy.threshold} is not finite; use --drop 0 or --drop 1 for none or all")
    fact = facts(policy.detector)
    ranking = Ranking.read(storage, scores, fact)
    n_ok = ranking.n_ok
    threshold: float | None
    tie: Identity | None = None
    if policy.threshold is not None:
        threshold, n_dropped = policy.threshold, ranking.count_worse(policy.threshold)
    else:
        n_dropped = policy.drop_count if policy.drop_count is not None else _part(policy.drop or Decimal(0), n_ok)
        if n_dropped > n_ok:
            raise UsageError(f"--drop-count {n_dropped} is more than the {n_ok} pairs that could be scored")
        threshold, tie = ranking.worst(n_dropped) if n_dropped else (None, None)
    given = policy.model_dump(mode="json", include={"drop", "drop_count", "threshold"}, exclude_none=True)
    return Decision(
        key=key,
        score_key=score_key,
        fit_key=fit_key,
        detector=policy.detector,
        higher_is_worse=fact.higher_is_worse,
        policy=given,
        unscored=policy.unscored,
        threshold=threshold,
        tie=tie,
        n_rows=ranking.n_rows,
        n_ok=n_ok,
        n_dropped=n_dropped,
        shards=len(scores),
        dropped=policy.dropped,
    )


def _part(fraction: Decimal, whole: int) -> int:
    """floor(fraction * whole) in integers, so that no decimal is ever rounded."""
    numerator, denominator = fraction.as_integer_ratio()
    return numerator * whole // denominator
