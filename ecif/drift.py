"""Have the scores of new shards the distribution for which the direction was fitted and the cut was made?

The reference is frozen once: quantiles of every score over shards of the fit, which are a sample of the corpus by
hash. New shards are counted into the same bins. Two numbers compare them:

    PSI  sum of (q - p) ln(q / p) over ten bins of equal reference mass, and one for pairs without a score
    KS   largest distance of the two distribution functions, at a hundred quantiles of the reference

By convention a population stability index (PSI) below 0.1 is no change and one above 0.25 a large one. With n and m
pairs and no change at all, n m / (n + m) times the index is about chi-squared; what chance explains is added to the
threshold, so that a handful of pairs never counts as drift. Shards differ among themselves, which is no chance in this
sense: a fit on very few shards makes a narrow reference.

The price is one reading of the score tables of the reference, once, and of every new shard.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif.agreement import canonical, settle
from ecif.ahead import ahead
from ecif.detectors import facts
from ecif.errors import InputError, MissingFileError
from ecif.layout import Layout
from ecif.run import Run
from ecif.settings import Settings
from ecif.shards.decode import OK
from ecif.storage import Storage

QUANTILES = 100
BINS = 10
# A bin that is empty on one side: half a pair stands in it.
_HALF = 0.5
# Pairs of the reference: more shards are not read, so that memory does not grow with the corpus.
REFERENCE_PAIRS = 500_000
# Standard deviations of chance that are granted.
_CHANCE = 3.0


@dataclass(frozen=True, slots=True)
class Reference:
    """Distribution of one score.

    Attributes:
        edges: rising quantiles, float. counts: pairs up to the first edge, between each two, above the last.
        unscored: pairs without a score.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    unscored: int


@dataclass(frozen=True, slots=True)
class Frozen:
    """The shards of the reference, and the references by score."""

    shards: frozenset[str]
    columns: dict[str, Reference]


@dataclass(frozen=True, slots=True)
class Drift:
    """New shards held against the reference.

    Attributes:
        column: the score. shards, pairs, unscored: of the new shards; unscored are among the pairs.
        reference_pairs: pairs of the reference.
        psi, ks: see above; ks is 0 where nothing was scored.
        limit: what psi has to exceed: the threshold, and what chance explains.
    """

    column: str
    shards: int
    pairs: int
    unscored: int
    reference_pairs: int
    psi: float
    ks: float
    limit: float

    @property
    def drifted(self) -> bool:
        """Whether the new shards are of another kind."""
        return self.psi > self.limit

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the verdict."""
        return {**asdict(self), "drifted": self.drifted}

    def headline(self) -> str:
        """The finding in a sentence."""
        verdict = "have drifted" if self.drifted else "are as before"
        return (
            f"the {self.column} of {self.pairs:,} new pairs {verdict}: stability index {self.psi:.3f} "
            f"(limit {self.limit:.3f}), largest distance {self.ks:.3f}"
        )


def check(run: Run, new: Collection[str]) -> Drift | None:
    """Hold the deciding score of new shards against the reference, which is frozen first where it is not yet.

    Args:
        run: its settings are those of `clean`.
        new: names of shards that were scored just now. Those of the reference itself do not count as new.

    Returns:
        None where there is nothing to compare: no reference yet, or no new shard with scores.

    Raises:
        InputError: a score table, or the reference, is damaged. StorageError: the storage failed.
    """
    assert isinstance(run.settings, Settings)
    column = facts(run.settings.detector).column
    frozen = load(run.layout, run.storage, run.score_key) or _freeze(run)
    if frozen is None or column not in frozen.columns:
        return None
    reference = frozen.columns[column]
    counts = np.zeros(len(reference.counts), np.int64)
    unscored = shards = 0
    for table in _tables(run, sorted(set(new) - frozen.shards), lambda data: [column]):
        if table is not None and len(table):
            values, missing = _values(table, column)
            counts += _binned(values, reference.edges)
            unscored, shards = unscored + missing, shards + 1
    if not shards:
        return None
    return compare(reference, counts, unscored, column=column, shards=shards, threshold=run.settings.drift)


def compare(
    reference: Reference, counts: npt.NDArray[np.int64], unscored: int, *, column: str, shards: int, threshold: float
) -> Drift:
    """The numbers.

    Args:
        counts: of the new pairs, in the bins of the reference. unscored: new pairs without a score.
        threshold: of the population stability index, for infinitely many pairs.
    """
    before, after = np.array(reference.counts, np.float64), counts.astype(np.float64)
    n, m = before.sum() + reference.unscored, after.sum() + unscored
    groups = _groups(before)
    p = np.append(np.bincount(groups, before), reference.unscored)
    q = np.append(np.bincount(groups, after), unscored)
    used = (p > 0) | (q > 0)
    # Every bin that anything lies in gets as much as half a pair of either side.
    p, q = np.maximum(p[used], _HALF) / n, np.maximum(q[used], _HALF) / m
    psi = float(((q - p) * np.log(q / p)).sum())
    free = max(1, int(used.sum()) - 1)
    chance = (free + _CHANCE * math.sqrt(2 * free)) * (1 / n + 1 / m)
    ks = 0.0
    if before.sum() and after.sum():
        ks = float(np.abs(before.cumsum() / before.sum() - after.cumsum() / after.sum()).max())
    return Drift(column, shards, int(m), unscored, int(n), psi, ks, threshold + float(chance))


def describe(values: npt.NDArray[np.float32], unscored: int) -> Reference:
    """The reference of one score.

    Args:
        values: finite scores, (n,). unscored: pairs without one.
    """
    edges: tuple[float, ...] = ()
    if values.size:
        inner = np.quantile(values.astype(np.float64), np.arange(1, QUANTILES) / QUANTILES, method="lower")
        edges = tuple(float(edge) for edge in np.unique(inner))
    return Reference(edges, tuple(int(count) for count in _binned(values, edges)), unscored)


def load(layout: Layout, storage: Storage, score_key: str) -> Frozen | None:
    """What is frozen for these scores; None where nothing is.

    Raises:
        InputError: the file is damaged.
    """
    url = layout.drift(score_key)
    try:
        record = storage.read_json(url)
    except MissingFileError:
        return None
    try:
        columns = {str(name): _reference(item) for name, item in record["columns"].items()}
        return Frozen(frozenset(map(str, record["shards"])), columns)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError("is no reference of scores; delete it, and it is made again", url=url) from error


def _reference(item: Mapping[str, Any]) -> Reference:
    edges, counts = tuple(map(float, item["edges"])), tuple(map(int, item["counts"]))
    if len(counts) != len(edges) + 1 or min(counts) < 0 or list(edges) != sorted(set(edges)):
        raise ValueError("the bins contradict each other")
    return Reference(edges, counts, int(item["unscored"]))


def _freeze(run: Run) -> Frozen | None:
    """Write the reference, as soon as all of its shards are scored."""
    shards = _sample(run)
    parts: dict[str, list[npt.NDArray[np.float32]]] = {}
    unscored: Counter[str] = Counter()
    for table in _tables(run, shards, _scores):
        if table is None:
            return None
        for name in table.columns[1:]:
            values, missing = _values(table, name)
            parts.setdefault(name, []).append(values)
            unscored[name] += missing
    if not parts:
        return None
    columns = {name: asdict(describe(np.concatenate(values), unscored[name])) for name, values in parts.items()}
    # Another run may have read tables that differ in the last bit: what is frozen first holds.
    settle(run.layout.drift(run.score_key), canonical({"shards": shards, "columns": columns}), run.storage)
    return load(run.layout, run.storage, run.score_key)


def _sample(run: Run) -> list[str]:
    """Shards of the fit, by hash, until they hold enough pairs; of all shards where the fit took none."""
    url = run.layout.fit_sample(run.fit_key)
    sizes = {shard.name: shard.samples or 0 for shard in run.inventory.shards}
    fitted = run.storage.read_json(url)["shards"] if run.storage.exists(url) else []
    most = REFERENCE_PAIRS if fitted else min(REFERENCE_PAIRS, run.settings.fit_pairs)
    chosen: list[str] = []
    pairs = 0
    for name in sorted(
        fitted or sizes, key=lambda name: hashlib.sha256(f"{run.settings.seed}:{name}".encode()).digest()
    ):
        if pairs >= most:
            break
        chosen.append(name)
        pairs += sizes.get(name, 0)
    return sorted(chosen)


def _scores(data: bytes) -> list[str]:
    """The columns of a table that hold scores."""
    kinds = pl.read_parquet_schema(io.BytesIO(data))
    return [name for name, kind in kinds.items() if kind == pl.Float32 and name != "influence_se"]


def _tables(run: Run, shards: Sequence[str], columns: Callable[[bytes], list[str]]) -> Iterator[pl.DataFrame | None]:
    """The status and these columns of the score tables, one after the other; None for a shard without one."""

    def read(name: str) -> pl.DataFrame | None:
        url = run.layout.scores(run.score_key, name)
        try:
            data = run.storage.read_bytes(url)
            return pl.read_parquet(io.BytesIO(data), columns=["status", *columns(data)])
        except MissingFileError:
            return None
        except pl.exceptions.PolarsError as error:
            raise InputError(f"is not a table of scores: {error}; delete it and run again", url=url) from error

    return ahead(read, shards)


def _values(table: pl.DataFrame, column: str) -> tuple[npt.NDArray[np.float32], int]:
    """The finite scores of the pairs that have one, and how many have none."""
    values = table.filter(pl.col("status") == OK)[column].drop_nulls().to_numpy()
    values = values[np.isfinite(values)].astype(np.float32)
    return values, len(table) - len(values)


def _binned(values: npt.NDArray[np.float32], edges: Sequence[float]) -> npt.NDArray[np.int64]:
    places = np.searchsorted(np.array(edges, np.float64), values.astype(np.float64), side="left")
    return np.bincount(places, minlength=len(edges) + 1)


def _groups(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """For each bin the number of its group: about BINS groups of equal mass, rising."""
    total = counts.sum()
    if not total:
        return np.zeros(len(counts), np.int64)
    middle = (counts.cumsum() - counts / 2) / total
    return np.minimum((middle * BINS).astype(np.int64), BINS - 1)
