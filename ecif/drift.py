"""Have the scores of new shards the distribution for which the direction was fitted and the cut was made?

The reference is frozen once: quantiles of every score over shards of the fit, which are a sample of the corpus by
hash. New shards are counted into the same bins, and compared with it (`ecif/stability.py`). What chance explains is no
drift; but shards differ among themselves, which is no chance in this sense: a fit on very few shards makes a narrow
reference.

The learned detector is known only when a decision has been made, and gets a reference of its own then.

The price is one reading of the score tables of the reference, once, and of every new shard.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif.agreement import canonical, settle
from ecif.ahead import ahead
from ecif.calibration.learned import Model
from ecif.detectors import AUTO, LEARNED, PLAIN, facts
from ecif.errors import InputError, MissingFileError
from ecif.keys import digest
from ecif.layout import Layout
from ecif.run import Run
from ecif.settings import Settings
from ecif.shards.decode import OK
from ecif.stability import Drift, Reference, binned, compare, describe
from ecif.storage import Storage

# Pairs of the reference: more shards are not read, so that memory does not grow with the corpus.
REFERENCE_PAIRS = 500_000


@dataclass(frozen=True, slots=True)
class Frozen:
    """The shards of the reference, and the references by score."""

    shards: frozenset[str]
    columns: dict[str, Reference]


def check(run: Run, new: Collection[str], model: Model | None = None) -> Drift | None:
    """Hold the deciding score of new shards against the reference, which is frozen first where it is not yet.

    Args:
        run: its settings are those of `clean`.
        model: of the standing decision, where the learned detector decides. Before there is a decision nothing has
            been learned, and clip_score stands for it.
        new: names of shards that were scored just now. Those of the reference itself do not count as new.

    Returns:
        None where there is nothing to compare: no reference yet, or no new shard with scores.

    Raises:
        InputError: a score table, or the reference, is damaged. StorageError: the storage failed.
    """
    assert isinstance(run.settings, Settings)
    named = run.settings.detector
    if model is not None:
        column = LEARNED
    else:
        column = PLAIN if named in (AUTO, LEARNED) else facts(named).column
    frozen = load(run.layout, run.storage, run.score_key) or _freeze(run)
    if frozen is not None and model is not None:
        frozen = _of_model(run, frozen, model)
    if frozen is None or column not in frozen.columns:
        return None
    reference = frozen.columns[column]
    needed = [column] if model is None else [*model.columns]
    counts = np.zeros(len(reference.counts), np.int64)
    unscored = shards = 0
    for table in _tables(run, sorted(set(new) - frozen.shards), lambda data: needed):
        if table is not None and len(table):
            values, missing = _values(table, column, model)
            counts += binned(values, reference.edges)
            unscored, shards = unscored + missing, shards + 1
    if not shards:
        return None
    return compare(reference, counts, unscored, column=column, shards=shards, threshold=run.settings.drift)


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


def _of_model(run: Run, frozen: Frozen, model: Model) -> Frozen | None:
    """The reference of a learned detector, over the shards of the others; None while one of them has no scores."""
    key = digest({"scores": run.score_key, "model": model.to_json()})
    if (known := load(run.layout, run.storage, key)) is not None:
        return known
    parts, unscored = [], 0
    for table in _tables(run, sorted(frozen.shards), lambda data: [*model.columns]):
        if table is None:
            return None
        values, missing = _values(table, LEARNED, model)
        parts.append(values)
        unscored += missing
    columns = {LEARNED: asdict(describe(np.concatenate(parts), unscored))}
    record = canonical({"shards": sorted(frozen.shards), "columns": columns})
    settle(run.layout.drift(key), record, run.storage)
    return load(run.layout, run.storage, key)


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


def _values(table: pl.DataFrame, column: str, model: Model | None = None) -> tuple[npt.NDArray[np.float32], int]:
    """The finite scores of the pairs that have one, and how many have none."""
    ok = table.filter(pl.col("status") == OK)
    found = ok[column].drop_nulls().to_numpy() if model is None else model.misalignment(ok)
    values = found[np.isfinite(found)].astype(np.float32)
    return values, len(table) - len(values)
