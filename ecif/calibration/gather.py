"""A bounded sample of real pairs and canaries from the tables of an output.

A corpus has a billion pairs and fifty million canaries; ten weights and a curve need some ten thousand of each. So at
most a thousand shards are read, drawn by the hash of their names, and each gives its part of the sample. What is drawn
depends on the seed and the names alone. The trade-off: where shards differ much and there are many more than a
thousand, some are not asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif import detectors
from ecif.calibration.measure import Array
from ecif.errors import UsageError
from ecif.layout import Layout
from ecif.progress import Progress, Silent, shown
from ecif.scores import stream_scores
from ecif.storage import Storage

SHARDS = 1_000
FOLDS = 5
FEWEST = 20  # canaries; with fewer there is nothing to say


@dataclass(frozen=True, slots=True)
class Sample:
    """Scores of C canaries and N real pairs.

    Attributes:
        canary, real: by score column, (C,) and (N,); NaN where there is none.
        kinds: of canaries, in the order of their numbers. kind: number of each canary, (C,).
        folds: of canaries and of real pairs, (C,) and (N,): those of a shard share one, or those of one place in all
            shards where there are few shards.
        shards: that were read.
    """

    canary: Mapping[str, Array]
    real: Mapping[str, Array]
    kinds: tuple[str, ...]
    kind: npt.NDArray[np.intp]
    folds: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]
    shards: int

    def of_kind(self, values: Array) -> dict[str, Array]:
        """Values of the canaries by kind."""
        return {name: values[self.kind == number] for number, name in enumerate(self.kinds)}


def gather(
    layout: Layout,
    storage: Storage,
    score_key: str,
    canary_key: str,
    *,
    pairs: int,
    seed: int,
    progress: Progress = Silent(),
) -> Sample:
    """Draw the sample.

    Args:
        pairs: real pairs, about; and the most canaries.

    Raises:
        UsageError: there are no canaries, or too few.
        InputError: a table cannot be read.
    """
    scored, planted = (
        _below(prefix, storage) for prefix in (layout.scores_of(score_key), layout.canaries_of(canary_key))
    )
    order = sorted(scored & planted, key=lambda name: _hash(seed, name))[:SHARDS]
    if not order:
        raise UsageError(f"{layout.root} has no canaries for the scores {score_key}; score with --canaries above 0")
    first = pl.read_parquet_schema(storage.read_bytes(layout.canaries(canary_key, order[0])))
    columns = [name for name in first if name in detectors.COLUMNS]
    each = -(-pairs // len(order))
    wrong = {name: layout.canaries(canary_key, name) for name in order}
    tables = {name: layout.scores(score_key, name) for name in order}
    with shown(progress, "calibrate", 2 * len(order), "tables"):
        of_canaries = _drawn(storage, wrong, ("kind", *columns), each, seed, progress)
        of_real = _drawn(storage, tables, ("status", *columns), each, seed, progress)
    if len(of_canaries) < FEWEST:
        raise UsageError(
            f"{len(of_canaries)} canaries are too few to calibrate {layout.root}; score again with a larger --canaries"
        )
    kinds = tuple(of_canaries["kind"].unique(maintain_order=False).sort().to_list())
    number = {name: place for place, name in enumerate(kinds)}
    fold = {name: place % FOLDS for place, name in enumerate(order)} if len(order) >= FOLDS else None

    def folds(table: pl.DataFrame) -> npt.NDArray[np.intp]:
        if fold is None:
            return table["index"].to_numpy().astype(np.intp) % FOLDS
        return np.array([fold[name] for name in table["shard"]], np.intp)

    def numbers(table: pl.DataFrame) -> dict[str, Array]:
        return {n: table[n].cast(pl.Float64).fill_null(float("nan")).to_numpy() for n in columns}

    return Sample(
        numbers(of_canaries),
        numbers(of_real),
        kinds,
        np.array([number[name] for name in of_canaries["kind"]], np.intp),
        (folds(of_canaries), folds(of_real)),
        len(order),
    )


def _drawn(
    storage: Storage, tables: Mapping[str, str], columns: tuple[str, ...], each: int, seed: int, progress: Progress
) -> pl.DataFrame:
    """Up to `each` rows of every table: scored ones, or canaries."""
    found = []
    for name, table in stream_scores(storage, tables, ("shard", "index", *columns)):
        usable = table.filter(pl.col("status") == "ok") if "status" in columns else table
        if len(usable) > each:
            random = np.random.default_rng(int.from_bytes(_hash(seed, name)[:8], "big"))
            usable = usable[np.sort(random.permutation(len(usable))[:each])]
        found.append(usable)
        progress.advance()
    return pl.concat(found)


def _below(prefix: str, storage: Storage) -> set[str]:
    folder = storage.check(prefix) + "/"
    return {info.url.removeprefix(folder).removesuffix(".parquet") for info in storage.list(folder, ".parquet")}


def _hash(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode()).digest()
