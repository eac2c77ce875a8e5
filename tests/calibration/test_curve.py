from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif.calibration.curve import Curve
from ecif.calibration.measure import Array, Estimate

SHARE = 0.1
Mask = npt.NDArray[np.bool_]


def draw(seed: int, pairs: int = 5_000, planted: int = 400) -> tuple[dict[str, Array], Array, Mask]:
    """Badness of canaries by kind and of real pairs, and which of these are wrong."""
    random = np.random.default_rng(seed)
    wrong = random.random(pairs) < SHARE
    far = random.random(pairs) < 0.5
    real = random.normal(size=pairs) + wrong * np.where(far, 3.0, 1.5)
    canaries = {"swap": random.normal(3.0, 1, planted // 2), "word": random.normal(1.5, 1, planted // 2)}
    return canaries, real, wrong


def test_recall_and_dropped_are_shares_beyond_the_cut() -> None:
    canaries, real, _ = draw(0)
    curve = Curve.of(canaries, real, higher_is_worse=True)
    for cut in curve.cuts[::10]:
        assert curve.dropped(cut).value == pytest.approx((real >= cut).mean())
        assert curve.recall(cut, "swap").value == pytest.approx((canaries["swap"] >= cut).mean())
        mean = np.mean([(part >= cut).mean() for part in canaries.values()])
        assert curve.recall(cut).value == pytest.approx(mean)


def test_precision_is_that_of_the_truth_within_its_interval() -> None:
    held = []
    for seed in range(40):
        canaries, real, wrong = draw(seed)
        curve = Curve.of(canaries, real, higher_is_worse=True)
        for cut in (0.5, 1.5, 2.5):
            found = curve.precision(cut, Estimate(SHARE, 0.09, 0.11))
            held.append(found.low <= wrong[real >= cut].mean() <= found.high)
    assert np.mean(held) >= 0.93


def test_the_loosest_cut_of_a_precision() -> None:
    canaries, real, wrong = draw(1)
    share = Estimate(SHARE, 0.08, 0.12)
    curve = Curve.of(canaries, real, higher_is_worse=True)
    cut = curve.cut_for(0.9, share)
    assert cut is not None
    assert curve.precision(cut, share).value >= 0.9
    assert wrong[real >= cut].mean() == pytest.approx(0.9, abs=0.06)
    looser = [other for other in curve.cuts if other < cut]
    assert all(curve.precision(other, share).value < 0.9 for other in looser)
    nothing = {"swap": np.zeros(50)}
    assert Curve.of(nothing, np.zeros(500), higher_is_worse=True).cut_for(0.9, share) is None


@given(seed=st.integers(0, 50), cut=st.floats(-4, 6))
def test_a_score_of_which_low_is_worse_is_the_same_turned_round(seed: int, cut: float) -> None:
    canaries, real, _ = draw(seed, pairs=300, planted=40)
    high = Curve.of(canaries, real, higher_is_worse=True)
    low = Curve.of({name: -part for name, part in canaries.items()}, -real, higher_is_worse=False)
    share = Estimate(SHARE, 0.05, 0.2)
    assert low.precision(-cut, share) == high.precision(cut, share)
    assert low.recall(-cut) == high.recall(cut)


@given(st.floats(-4, 6), st.floats(-4, 6))
def test_a_looser_cut_finds_and_drops_no_less(one: float, other: float) -> None:
    canaries, real, _ = draw(0, pairs=300, planted=40)
    curve = Curve.of(canaries, real, higher_is_worse=True)
    loose, strict = min(one, other), max(one, other)
    assert curve.recall(loose).value >= curve.recall(strict).value
    assert curve.dropped(loose).value >= curve.dropped(strict).value


def test_curves_survive_json() -> None:
    canaries, real, _ = draw(0)
    curve = Curve.of(canaries, real, higher_is_worse=True)
    assert Curve.from_json(json.loads(json.dumps(curve.to_json()))) == curve
