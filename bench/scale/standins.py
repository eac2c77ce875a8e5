"""Functions that return at once, in the place of those that need a model or move bytes.

They do what orchestration sees of the real ones: a score table and a manifest appear for every shard, through the real
storage. The seconds they take are added up, so that what is left of a run's time is orchestration.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
import polars as pl

from bench.scale import corpus
from ecif import ALGO_VERSION, detectors, manifest
from ecif.inventory import Shard
from ecif.manifest import FileMark, Manifest
from ecif.run import Run, versions
from ecif.settings import recorded
from ecif.stages.score import ScoreSummary

_U32 = ("index", "batch", "position", "batch_n")


@dataclass(slots=True)
class Spent:
    """Seconds and calls of the stand-ins, by stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def on(self, stage: str) -> Iterator[None]:
        """Count the time inside the block."""
        started = time.perf_counter()
        yield
        with self._lock:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started
            self.calls[stage] = self.calls.get(stage, 0) + 1


def table(shard: str) -> bytes:
    """A score table with all columns and random scores."""
    rows = corpus.PAIRS
    numbers = np.random.default_rng(abs(hash(shard))).random((len(detectors.NAMES) + 1, rows), dtype=np.float32)
    keys = [f"{row:05d}" for row in range(rows)]
    columns: dict[str, Any] = {"uid": [f"{shard}/{key}" for key in keys], "key": keys, "shard": [shard] * rows}
    columns |= {name: pl.Series(range(rows), dtype=pl.UInt32) for name in _U32}
    columns |= {"status": ["ok"] * rows, **dict(zip((*detectors.NAMES, "influence_se"), numbers, strict=True))}
    buffer = io.BytesIO()
    pl.DataFrame(columns).write_parquet(buffer, compression="zstd", metadata={"ecif_overlap": "0"})
    return buffer.getvalue()


@contextmanager
def in_place(seconds: float = 0.0) -> Iterator[Spent]:
    """Inside the block a finished fit is taken for granted, and nothing is scored or copied.

    Args:
        seconds: what scoring a shard takes.
    """
    spent, rows = Spent(), corpus.PAIRS

    def load_direction(run: Run, engine: object) -> None:
        about = {"settings": recorded(run.settings), "fit_key": run.fit_key, "versions": versions()}
        run.storage.publish_json(run.layout.score_meta(run.score_key), about, replace=True)

    def score_shard(
        run: Run, engine: object, shard: Shard, direction: object, progress: Any, upcoming: object = None
    ) -> ScoreSummary:
        with spent.on("score"):
            time.sleep(seconds)
            run.storage.publish_first(run.layout.scores(run.score_key, shard.name), table(shard.name))
        progress.advance(rows)
        return ScoreSummary(shard.name, rows, {"ok": rows}, 0, 0.0, skipped=False)

    def write_shard(shard: Shard, decision: Any, layout: Any, storage: Any, form: object, limits: object) -> Manifest:
        with spent.on("write"):
            dropped = rows // 10
            marks = {kind: FileMark(1, "0" * 64) for kind in ("tar", "ledger", "scores")}
            counts = (rows, rows - dropped, dropped, 0, 0, {"ok": rows})
            keys = (decision.fit_key, decision.score_key, decision.key)
            made = Manifest(shard.name, shard.info, *counts, marks, *keys, ALGO_VERSION)
            manifest.write(made, layout, storage)
        return made

    with (
        patch("ecif.stages.fit.is_done", lambda run: True),
        patch("ecif.stages.engine.load_engine", lambda *args, **options: MagicMock()),
        patch("ecif.stages.score.load_direction", load_direction),
        patch("ecif.stages.score.score_shard", score_shard),
        patch("ecif.stages.write.write_shard", write_shard),
    ):
        yield spent
