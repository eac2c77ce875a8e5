from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ecif import detectors
from ecif.calibration import gather as module
from ecif.calibration.gather import gather
from ecif.calibration.measure import Array
from ecif.calibration.state import ALL, WITHOUT, Calibration, Choice, calibrate, load
from ecif.errors import InputError, UsageError
from ecif.storage import Storage
from tests.calibration.world import CANARIES, KINDS, SCORES, World, build


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(tmp_path_factory.mktemp("calibration") / "out")


@pytest.fixture(scope="module")
def made(world: World) -> Calibration:
    return calibrate(world.layout, Storage(), SCORES, CANARIES)


def test_the_sample_is_bounded_and_drawn_from_the_scored_pairs(world: World) -> None:
    found = gather(world.layout, Storage(), SCORES, CANARIES, pairs=600, seed=0)
    assert found.shards == 6
    assert {len(values) for values in found.real.values()} == {600}
    assert {len(values) for values in found.canary.values()} == {240}
    assert np.isfinite(found.real["clip_score"]).all()
    assert np.isnan(found.canary["harm"]).all()
    assert found.kinds == tuple(sorted(KINDS))
    assert set(found.folds[0]) == set(range(5))


def test_the_sample_follows_from_the_seed(world: World) -> None:
    one, other, third = (
        gather(world.layout, Storage(), SCORES, CANARIES, pairs=500, seed=seed).real["clip_score"] for seed in (3, 3, 4)
    )
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)


def test_of_many_shards_some_are_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARDS", 2)
    found = gather(world.layout, Storage(), SCORES, CANARIES, pairs=50_000, seed=0)
    assert found.shards == 2
    assert len(found.kind) == 80


def test_a_shard_without_canaries_is_left_out(tmp_path: Path) -> None:
    world = build(tmp_path / "out", shards=3, pairs=100)
    Path(world.layout.canaries(CANARIES, "00001")).unlink()
    assert gather(world.layout, Storage(), SCORES, CANARIES, pairs=1_000, seed=0).shards == 2


def test_without_or_with_few_canaries_it_says_what_to_do(tmp_path: Path) -> None:
    world = build(tmp_path / "out", shards=2, pairs=60, planted=4)
    with pytest.raises(UsageError, match="8 canaries are too few"):
        calibrate(world.layout, Storage(), SCORES, CANARIES)
    with pytest.raises(UsageError, match="--canaries above 0"):
        calibrate(world.layout, Storage(), SCORES, "000000000000")


def test_a_broken_table_is_named(tmp_path: Path) -> None:
    world = build(tmp_path / "out", shards=1, pairs=100)
    Path(world.layout.scores(SCORES, "00000")).write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"00000\.parquet"):
        calibrate(world.layout, Storage(), SCORES, CANARIES)


def test_the_learned_detector_finds_canaries_best(made: Calibration) -> None:
    areas = {name: by_kind[ALL].auroc.value for name, by_kind in made.measures.items()}
    assert areas[detectors.LEARNED] == max(areas.values())
    assert areas[detectors.LEARNED] > areas[WITHOUT] > areas["clip_score"]
    assert made.best_single == "clip_score"
    assert "harm" not in areas
    assert not any(detectors.facts(name).rests_on_gradients for name in made.without.columns)


def test_subtle_kinds_are_harder(made: Calibration) -> None:
    by_kind = made.measures[detectors.LEARNED]
    assert by_kind["swap"].auroc.value > by_kind["near"].auroc.value > by_kind["word"].auroc.value > 0.75


def test_the_learned_detector_finds_the_mistakes_that_nobody_labelled(world: World, made: Calibration) -> None:
    paths = sorted(Path(world.layout.scores_of(SCORES)).glob("*.parquet"))
    scores = pl.concat([pl.read_parquet(path) for path in paths]).with_columns(wrong=pl.Series(world.wrong))
    scores = scores.filter(pl.col("status") == "ok")
    misalignment, wrong = made.model.misalignment(scores), scores["wrong"].to_numpy()

    def area(badness: Array) -> float:
        ranks = np.argsort(np.argsort(badness)) + 1
        n = wrong.sum()
        return (ranks[wrong].sum() - n * (n + 1) / 2) / (n * (~wrong).sum())

    assert area(misalignment) > area(-scores["clip_score"].to_numpy())
    assert made.share.low <= wrong.mean() <= made.share.high
    probability = made.probability(misalignment)
    assert ((probability >= 0) & (probability <= 1)).all()
    assert (np.diff(probability[np.argsort(misalignment)]) >= 0).all()
    assert probability.mean() == pytest.approx(wrong.mean(), abs=0.03)
    for low, high in ((0.0, 0.1), (0.1, 0.5), (0.5, 1.0)):
        inside = (probability >= low) & (probability < high)
        assert wrong[inside].mean() == pytest.approx(probability[inside].mean(), abs=0.15)
    curve = made.curves[detectors.LEARNED]
    for precision in (0.5, 0.8):
        cut = curve.cut_for(precision, made.share)
        assert cut is not None
        assert wrong[misalignment >= cut].mean() == pytest.approx(precision, abs=0.12)
        found = curve.precision(cut, made.share)
        assert found.low <= wrong[misalignment >= cut].mean() <= found.high


def test_a_probability_and_its_misalignment_belong_together(made: Calibration) -> None:
    for probability in (0.01, 0.5, 0.9):
        assert made.probability(np.array([made.misalignment_at(probability)]))[0] == pytest.approx(probability)


def test_it_is_frozen_though_shards_arrive(tmp_path: Path) -> None:
    world = build(tmp_path / "out", shards=3, pairs=200)
    first = calibrate(world.layout, Storage(), SCORES, CANARIES)
    url = world.layout.calibration(first.key)
    data = Path(url).read_bytes()
    build(tmp_path / "out", shards=4, pairs=200, seed=1)
    assert calibrate(world.layout, Storage(), SCORES, CANARIES) == first
    assert Path(url).read_bytes() == data
    other = calibrate(world.layout, Storage(), SCORES, CANARIES, Choice(seed=1))
    assert other.key != first.key
    assert other.shards == 4


def test_it_is_the_same_from_the_same_tables(world: World, made: Calibration, tmp_path: Path) -> None:
    again = build(tmp_path / "out")
    assert calibrate(again.layout, Storage(), SCORES, CANARIES) == made


def test_files_that_are_no_calibration_are_refused(world: World, made: Calibration) -> None:
    value = json.loads(json.dumps(made.to_json()))
    assert Calibration.from_json(value, "x") == made
    broken: Any
    for broken in ({}, [], value | {"version": 0}, value | {"model": {}}, value | {"thinning": {"a": 1}}):
        with pytest.raises(InputError, match="not a calibration of this version"):
            Calibration.from_json(broken, "x")
    with pytest.raises(UsageError, match="run calibrate first"):
        load(world.layout, Storage(), "000000000000")
