"""The learned detector decides: the same pairs go by the plan, by the decision read back, and by a naive reference."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ecif import detectors
from ecif.calibration.state import Calibration, calibrate
from ecif.errors import InputError
from ecif.policy.decision import Decision
from ecif.policy.settings import PolicySettings
from ecif.selection import choose, dropped_mask, ranks
from ecif.storage import Storage
from tests.calibration.world import CANARIES, SCORES, World, build


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(tmp_path_factory.mktemp("deciding") / "out", shards=3, pairs=300)


@pytest.fixture(scope="module")
def calibration(world: World) -> Calibration:
    return calibrate(world.layout, Storage(), SCORES, CANARIES)


def tables(world: World) -> dict[str, pl.DataFrame]:
    return {path.stem: pl.read_parquet(path) for path in sorted(Path(world.layout.scores_of(SCORES)).glob("*.parquet"))}


def decided(world: World, calibration: Calibration, **policy: Any) -> Decision:
    scores = {name: world.layout.scores(SCORES, name) for name in tables(world)}
    given = PolicySettings(detector=detectors.LEARNED, **policy)
    return choose(
        Storage(), scores, given, key="k", score_key=SCORES, fit_key="f", model=calibration.model
    )  # fmt: skip


def test_exactly_the_most_misaligned_pairs_go(world: World, calibration: Calibration) -> None:
    decision = decided(world, calibration, drop=Decimal("0.1"))
    assert decision.n_dropped == 89  # of 897 scored ones
    again = Decision.from_json(json.loads(json.dumps(decision.to_json())), "x")
    assert again == decision
    found = []
    for table in tables(world).values():
        completed = table.select("uid", "key", "shard", "index", *again.rule.columns)
        completed = completed.with_columns(again.rule.values(completed).alias(detectors.LEARNED))
        found.append(completed.with_columns(dropped_mask(completed, again), ranks(completed, again)))
    every = pl.concat(found).filter(pl.col("status") == "ok")
    expected = calibration.model.misalignment(every).astype(np.float32)
    assert np.array_equal(every[detectors.LEARNED].to_numpy(), expected)
    worst = set(every["uid"].to_numpy()[np.argsort(-expected, kind="stable")[:89]])
    assert set(every.filter("dropped")["uid"]) == worst
    assert decision.threshold == pytest.approx(float(np.sort(expected)[-89]))


def test_decisions_by_columns_are_written_as_before(world: World) -> None:
    scores = {name: world.layout.scores(SCORES, name) for name in tables(world)}
    given = PolicySettings(detector="clip_score", drop=Decimal("0.1"))
    plain = choose(Storage(), scores, given, key="k", score_key=SCORES, fit_key="f")
    assert "model" not in plain.to_json()
    assert plain.rule.model is None


def test_a_broken_model_is_refused(world: World, calibration: Calibration) -> None:
    value = decided(world, calibration, drop_count=3).to_json()
    with pytest.raises(InputError, match="learned detector"):
        Decision.from_json(value | {"model": {"columns": []}}, "x")
