"""Synthetic score and canary tables of which everything is known."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif.layout import Layout

SCORES, CANARIES = "0123456789ab", "ba9876543210"
KINDS = ("swap", "near", "word", "drop")
# How far a canary of each kind, and a natural mistake, lie from the right pairs along the truth behind the columns.
DISTANCE = {"swap": 4.0, "near": 3.0, "word": 1.5, "drop": 1.0}


@dataclass(frozen=True, slots=True)
class World:
    """An output with tables, and which pairs are wrong."""

    layout: Layout
    wrong: npt.NDArray[np.bool_]


def columns(wrongness: npt.NDArray[np.float64], random: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
    """Two good similarities with noise of their own, an influence that adds something, and one that says nothing."""
    n = len(wrongness)
    shared = random.normal(size=n)
    first = wrongness + 0.7 * shared + 0.7 * random.normal(size=n)
    second = wrongness + 0.7 * shared + 0.7 * random.normal(size=n)
    third = 0.6 * wrongness + random.normal(size=n)
    positive = -1e-5 * third
    negative = 1e-6 * random.normal(size=n)
    found = {
        "clip_score": 0.3 - 0.05 * first,
        "neg_clip_loss": -1.0 - 0.4 * second,
        "positive_influence": positive,
        "negative_influence": negative,
        "influence": positive + negative,
    }
    return {name: values.astype(np.float32) for name, values in found.items()}


def build(
    root: Path,
    *,
    shards: int = 6,
    pairs: int = 600,
    share: float = 0.1,
    planted: int = 40,
    seed: int = 0,
    canary_key: str = CANARIES,
) -> World:
    """Tables of `shards` shards; `share` of the pairs is wrong, as the mean of the kinds of canaries is."""
    layout = Layout(str(root))
    random = np.random.default_rng(seed)
    everything = []
    for number in range(shards):
        name = f"{number:05d}"
        wrong = random.random(pairs) < share
        kinds = random.choice(KINDS, pairs)
        distance = np.where(wrong, [DISTANCE[kind] for kind in kinds], 0.0)
        real = {
            "uid": [hashlib.md5(f"{name}/{row}".encode()).hexdigest() for row in range(pairs)],
            "key": [f"{row:09d}" for row in range(pairs)],
            "shard": [name] * pairs,
            "index": pl.Series(range(pairs), dtype=pl.UInt32),
            "status": ["ok"] * (pairs - 1) + ["decode_error"],
            **columns(distance, random),
            "harm": random.normal(size=pairs).astype(np.float32),
        }
        table = pl.DataFrame(real).with_columns(
            pl.when(pl.col("status") == "ok").then(pl.col(c)).alias(c) for c in (*columns(np.zeros(1), random), "harm")
        )
        hosts = np.sort(random.permutation(pairs - 1)[:planted])
        kind = [KINDS[place % len(KINDS)] for place in range(planted)]
        canaries = {
            "shard": [name] * planted,
            "index": pl.Series(hosts.tolist(), dtype=pl.UInt32),
            "kind": kind,
            **columns(np.array([DISTANCE[k] for k in kind]), random),
            "harm": pl.Series([None] * planted, dtype=pl.Float32),
        }
        for url, frame in (
            (layout.scores(SCORES, name), table),
            (layout.canaries(canary_key, name), pl.DataFrame(canaries)),
        ):
            Path(url).parent.mkdir(parents=True, exist_ok=True)
            frame.write_parquet(url)
        everything.append(wrong)
    return World(layout, np.concatenate(everything))
