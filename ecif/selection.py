"""Which pairs go: an exact number of them, ties included, without ever holding the corpus in memory.

The k-th worst score of all shards is found by radix selection. A float32 has an order-preserving image among the
unsigned 32-bit integers; one pass over the score files counts its upper 16 bits, a second pass counts the lower 16
bits within the bin that holds the k-th score, and that names the score exactly. Only the pairs that tie at it are
then looked at one by one: by uid, then key, then shard, then index. The trade-off is three readings of the score
files (about 100 bytes a pair) against a memory of two histograms of 65,536 bins. Where more pairs tie than may be
held, their identities are narrowed by the same idea, two bytes a pass.

The result, a `Decision`, is a cut that holds for every row on its own: whether a pair goes can be told from its row
and the decision alone, in any order, on any machine, and also for shards that arrive later.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif.ahead import ahead
from ecif.detectors import Facts, facts
from ecif.errors import InputError, UsageError
from ecif.radix import BINS, from_image, image, locate
from ecif.settings import PolicySettings
from ecif.storage import Storage

Identity = tuple[str, str, str, int]
"""uid, key, shard and index of a pair: unique in a corpus, and the order in which ties go."""

IDENTITY = ("uid", "key", "shard", "index")
TIES_HELD = 1_000_000  # identities in memory at a time, a few hundred bytes each
_STEP = 2  # bytes of an identity that one narrowing pass settles


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


def stream_scores(
    storage: Storage, scores: Mapping[str, str], columns: Sequence[str]
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Score tables one shard after another, in the order of the names; a few are read ahead.

    Args:
        scores: shard name -> URL of its score table.
        columns: the columns to load.

    Raises:
        InputError: a file is not a score table, or lacks a column.
    """
    names = sorted(scores)
    return zip(names, ahead(lambda name: _read(storage, scores[name], columns), names), strict=True)


def _read(storage: Storage, url: str, columns: Sequence[str]) -> pl.DataFrame:
    try:
        return pl.read_parquet(io.BytesIO(storage.read_bytes(url)), columns=list(columns))
    except pl.exceptions.PolarsError as error:
        raise InputError(f"not a table with the scores {', '.join(columns)}: {error}", url=url) from error


def worseness(
    scores: pl.DataFrame, column: str, higher_is_worse: bool, where: str
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Which rows are scored, and how bad they are.

    Args:
        scores: n rows with `status` and the score column.
        column, higher_is_worse: the score, and its sense.
        where: the file or shard that an error names.

    Returns:
        ok: (n,) bool, the rows that count.
        worse: (ok.sum(),) float32 of those rows in their order: the smaller the worse; -0.0 has become 0.0.

    Raises:
        InputError: a row that counts has no finite score.
    """
    ok = (scores["status"] == "ok").fill_null(False).to_numpy()
    values = scores[column].cast(pl.Float32).fill_null(float("nan")).to_numpy()[ok]
    if not (finite := np.isfinite(values)).all():
        row = int(np.flatnonzero(ok)[np.flatnonzero(~finite)[0]])
        raise InputError(
            f"row {row} is marked ok but its {column} is {values[~finite][0]}; score this shard again", url=where
        )
    # Adding 0.0 turns -0.0 into 0.0: equal numbers must have equal images.
    return ok, (-values if higher_is_worse else values) + np.float32(0)


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
            mask[level] = [identity <= decision.tie for identity in _identities(scores, level)]
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
    select = _Selection(storage, scores, fact)
    upper, n_rows = select.upper_bits()
    n_ok = int(upper.sum())
    threshold: float | None
    tie: Identity | None = None
    if policy.threshold is not None:
        threshold, n_dropped = policy.threshold, select.count_worse(policy.threshold)
    else:
        n_dropped = policy.drop_count if policy.drop_count is not None else _part(policy.drop or Decimal(0), n_ok)
        if n_dropped > n_ok:
            raise UsageError(f"--drop-count {n_dropped} is more than the {n_ok} pairs that could be scored")
        threshold, tie = select.worst(n_dropped, upper) if n_dropped else (None, None)
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
        n_rows=n_rows,
        n_ok=n_ok,
        n_dropped=n_dropped,
        shards=len(scores),
        dropped=policy.dropped,
    )


def _part(fraction: Decimal, whole: int) -> int:
    """floor(fraction * whole) in integers, so that no decimal is ever rounded."""
    numerator, denominator = fraction.as_integer_ratio()
    return numerator * whole // denominator


def _identities(scores: pl.DataFrame, rows: npt.NDArray[np.intp]) -> list[Identity]:
    return [(uid, key, shard, int(index)) for uid, key, shard, index in scores[rows].select(IDENTITY).iter_rows()]


def _sortable(identity: Identity) -> bytes:
    """Bytes that compare as the identities do: each string ends in two zero bytes, and zeros inside it are escaped."""
    texts = (part.encode().replace(b"\0", b"\0\xff") + b"\0\0" for part in identity[:3])
    return b"".join(texts) + identity[3].to_bytes(8, "big")


@dataclass(frozen=True, slots=True)
class _Selection:
    """Passes over the score files of one corpus."""

    storage: Storage
    scores: Mapping[str, str]
    fact: Facts

    def _pass(self, *extra: str) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.bool_], npt.NDArray[np.float32]]]:
        columns = ("status", self.fact.column, *extra)
        for name, table in stream_scores(self.storage, self.scores, columns):
            ok, worse = worseness(table, self.fact.column, self.fact.higher_is_worse, self.scores[name])
            yield table, ok, worse

    def upper_bits(self) -> tuple[npt.NDArray[np.int64], int]:
        """How many scored pairs have which upper 16 bits (65,536 counts), and the number of rows."""
        counts, rows = np.zeros(BINS, dtype=np.int64), 0
        for table, _, worse in self._pass():
            counts += np.bincount(image(worse) >> 16, minlength=BINS)
            rows += table.height
        return counts, rows

    def count_worse(self, threshold: float) -> int:
        """How many scored pairs are strictly worse than a threshold."""
        cut = -threshold if self.fact.higher_is_worse else threshold
        return sum(int((worse.astype(np.float64) < cut).sum()) for _, _, worse in self._pass())

    def worst(self, k: int, upper: npt.NDArray[np.int64]) -> tuple[float, Identity]:
        """Score and identity of the k-th worst pair, 1 <= k <= the number of scored pairs."""
        high, n = locate(upper, k)
        counts = np.zeros(BINS, dtype=np.int64)
        for _, _, worse in self._pass():
            bits = image(worse)
            counts += np.bincount(bits[bits >> 16 == high] & 0xFFFF, minlength=BINS)
        low, n = locate(counts, n)
        level = from_image(high << 16 | low)
        score = -level if self.fact.higher_is_worse else level
        return float(score) + 0.0, self._tie(level, n, int(counts[low]))

    def _tie(self, level: np.float32, n: int, count: int) -> Identity:
        """The n-th identity of the `count` pairs at one level."""
        prefix = b""
        while count > TIES_HELD:
            end = len(prefix) + _STEP
            found = Counter(_sortable(identity)[len(prefix) : end] for identity in self._ties(level, prefix))
            steps = sorted(found)
            place, n = locate(np.array([found[step] for step in steps], dtype=np.int64), n)
            prefix, count = prefix + steps[place], found[steps[place]]
            if len(prefix) < end:
                break  # the identities have ended: all that are left are equal
        return sorted(self._ties(level, prefix))[n - 1]

    def _ties(self, level: np.float32, prefix: bytes) -> Iterator[Identity]:
        for table, ok, worse in self._pass(*IDENTITY):
            rows = np.flatnonzero(ok)[worse == level]
            if rows.size:
                yield from (i for i in _identities(table, rows) if _sortable(i).startswith(prefix))
