from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, roc_auc_score

from ecif.calibration.measure import Array, Estimate, auprc, auroc, placements, proportion

SCORES = st.integers(1, 30).flatmap(lambda n: arrays(np.float64, n, elements=st.integers(-5, 5).map(float)))


@given(canary=SCORES, real=SCORES)
def test_area_is_that_of_scikit_learn_and_lies_in_its_interval(canary: Array, real: Array) -> None:
    found = auroc(canary, real)
    labels = np.r_[np.ones(len(canary)), np.zeros(len(real))]
    assert found.value == pytest.approx(roc_auc_score(labels, np.r_[canary, real]))
    assert found.value == pytest.approx(placements(canary, real).mean())
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(canary=SCORES, real=SCORES, share=st.floats(0.01, 0.9))
def test_average_precision_is_that_of_scikit_learn_with_weights(canary: Array, real: Array, share: float) -> None:
    found = auprc(canary, real, share)
    labels = np.r_[np.ones(len(canary)), np.zeros(len(real))]
    weights = np.r_[np.full(len(canary), share / len(canary)), np.full(len(real), (1 - share) / len(real))]
    expected = average_precision_score(labels, np.r_[canary, real], sample_weight=weights)
    assert found.value == pytest.approx(expected)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_average_precision_does_not_depend_on_how_many_canaries_there_are() -> None:
    random = np.random.default_rng(0)
    canary, real = random.normal(2, 1, 300), random.normal(size=3_000)
    assert auprc(np.repeat(canary, 3), real).value == pytest.approx(auprc(canary, real).value)


def test_intervals_hold_the_truth_in_about_95_of_100_samples() -> None:
    random = np.random.default_rng(1)
    truth = roc_auc_score(np.r_[np.ones(200_000), np.zeros(200_000)], _scores(random, 200_000))
    precise = auprc(_scores(random, 200_000)[:200_000], random.normal(size=200_000)).value
    areas, precisions = 0, 0
    for _ in range(100):
        canary, real = random.normal(1, 1, 200), random.normal(size=4_000)
        areas += (found := auroc(canary, real)).low <= truth <= found.high
        precisions += (found := auprc(canary, real)).low <= precise <= found.high
    assert areas >= 90
    assert precisions >= 90


def _scores(random: np.random.Generator, n: int) -> Array:
    return np.r_[random.normal(1, 1, n), random.normal(size=n)]


def test_perfect_separation_is_not_taken_for_certainty() -> None:
    found = auroc(np.arange(10.0) + 100, np.arange(50.0))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 10))
    worst = auroc(np.arange(10.0) - 100, np.arange(50.0))
    assert (worst.low, worst.value) == (0.0, 0.0)
    assert worst.high == pytest.approx(1 - 0.025 ** (1 / 10))


@given(n=st.integers(1, 10_000), data=st.data())
def test_a_share_lies_in_its_interval(n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n))
    found = proportion(count, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high


def test_estimates_survive_json_to_six_digits() -> None:
    found = Estimate(0.123456789, 0.1, 0.2)
    assert Estimate.from_json(found.to_json()) == Estimate(0.123457, 0.1, 0.2)
    with pytest.raises(ValueError, match="two ends"):
        Estimate.from_json([0.1, 0.2])
