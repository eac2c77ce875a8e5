from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from ecif.calibration.fitting import PENALTIES, fit, learn
from ecif.calibration.learned import Features, Model, compressed, features
from ecif.calibration.measure import Array

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.intp]
Sampled = tuple[dict[str, Array], dict[str, Array], Numbers, tuple[Numbers, Numbers]]

MODEL = Model(
    ("clip_score", "lemon"), (-1.0, 1.0), (0.3, 2.0), (0.05, 0.5), (1.5, 0.25), -0.75, "clip_score", 0.1
)  # fmt: skip


def sample(canaries: int = 400, pairs: int = 4_000, seed: int = 0, share: float = 0.1, **distance: float) -> Sampled:
    """Columns by their name, as far from the right pairs as `distance` says; values are badness or its opposite."""
    random = np.random.default_rng(seed)
    wrong = random.random(pairs) < share
    sign = {"lemon": 1.0}
    canary = {n: sign.get(n, -1.0) * (random.normal(size=canaries) + d) for n, d in distance.items()}
    real = {n: sign.get(n, -1.0) * (random.normal(size=pairs) + d * wrong) for n, d in distance.items()}
    kinds = np.arange(canaries) % 4
    return canary, real, kinds, (np.arange(canaries) % 5, np.arange(pairs) % 5)


def as_features(columns_CJ: Array, columns_NJ: Array) -> Features:
    """Columns that are on the scale of the model already."""
    names = ("clip_score", "neg_clip_loss", "influence", "aum")[: columns_CJ.shape[1]]
    ones = (1.0,) * len(names)
    kinds = np.zeros(len(columns_CJ), int)
    return Features(names, ones, ones, ones, columns_CJ, columns_NJ, kinds, (kinds, np.zeros(len(columns_NJ), int)))


def whole(of: Features) -> tuple[Mask, Mask]:
    return np.ones(len(of.canary_CJ), bool), np.ones(len(of.real_NJ), bool)


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=2, max_size=50))
def test_compression_keeps_the_order(values: list[float]) -> None:
    ordered = np.sort(np.array(values, np.float64))
    found = compressed(ordered, 1.0, 0.25, 0.5)
    assert (np.diff(found) >= 0).all()
    assert np.array_equal(compressed(ordered, -1.0, 0.25, 0.5), -found)


@given(st.data())
def test_misalignment_of_a_row_depends_on_that_row_alone(data: st.DataObject) -> None:
    numbers = st.floats(-1e6, 1e6, width=32) | st.none()
    rows = data.draw(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20))
    table = pl.DataFrame(rows, schema={"clip_score": pl.Float32, "lemon": pl.Float32}, orient="row")
    found = MODEL.misalignment(table)
    order = data.draw(st.permutations(range(len(rows))))
    assert np.array_equal(MODEL.misalignment(table[list(order)]), found[list(order)], equal_nan=True)
    for place, row in enumerate(rows):
        expected = -0.75
        for value, sign, centre, scale, weight in zip(
            row, (-1.0, 1.0), (0.3, 2.0), (0.05, 0.5), (1.5, 0.25), strict=True
        ):
            z = 0.0 if value is None else sign * ((value - centre) / scale)
            expected += weight * (z / (1 + abs(z)) ** 0.5)
        if row == (None, None):
            assert np.isnan(found[place])
        else:
            assert found[place] == expected  # the same bits from Python's own floats


def test_a_worse_pair_never_looks_better() -> None:
    canary, real, kinds, folds = sample(clip_score=2.0, neg_clip_loss=1.5, clip_logit=1.0, aum=0.0, influence=-1.0)
    model = learn(features(canary, real, kinds, folds)).model
    assert all(weight > 0 for weight in model.weights)
    assert "influence" not in model.columns  # whose canaries look better than real pairs


def test_the_sense_of_the_negative_role_is_left_to_the_canaries() -> None:
    for distance in (-1.5, 1.5):
        found = learn(features(*sample(clip_score=1.0, negative_influence=distance)))
        weights = dict(zip(found.model.columns, found.model.weights, strict=True))
        assert np.sign(weights["negative_influence"]) == np.sign(distance)
        assert found.model.base == "clip_score"


def test_without_bounds_at_work_the_weights_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    canary, real = random.normal(1, 1, (300, 3)), random.normal(0, 1, (2_000, 3))
    of = as_features(canary, real)
    intercept, weights = fit(of, 0, 1e-12, *whole(of))
    x, y = np.r_[canary, real], np.r_[np.ones(300), np.zeros(2_000)]
    expected = LogisticRegression(C=1e6, class_weight="balanced", tol=1e-10, max_iter=1_000).fit(x, y)
    assert weights == pytest.approx(expected.coef_[0], abs=2e-4)
    assert intercept == pytest.approx(expected.intercept_[0], abs=2e-4)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_no_other_weights_have_a_smaller_loss(penalty: float | None) -> None:
    random = np.random.default_rng(1)
    canary, real = random.normal([1.0, -0.5, 0.6, 0.3], 1, (200, 4)), random.normal(0, 1, (1_000, 4))
    of = as_features(canary, real)
    intercept, weights = fit(of, 0, penalty, *whole(of))

    def loss(intercept: float, weights: Array) -> float:
        margin = np.r_[intercept + canary @ weights, -(intercept + real @ weights)]
        mass = np.r_[np.full(200, 0.5 / 200), np.full(1_000, 0.5 / 1_000)]
        return (mass * np.logaddexp(0, -margin)).sum() + 0.5 * (penalty or 0.0) * (weights[1:] ** 2).sum()

    assert (weights >= 0).all()
    assert weights[1] == 0
    if penalty is None:
        assert not weights[1:].any()
    for _ in range(200):
        moved = np.maximum(weights + random.normal(0, 0.05, 4), 0) * (1 if penalty else [1, 0, 0, 0])
        assert loss(intercept + random.normal(0, 0.05), moved) >= loss(intercept, weights) - 1e-9


def test_the_single_score_stays_where_nothing_adds_to_it() -> None:
    found = learn(features(*sample(clip_score=2.0, clip_logit=0.0, aum=0.0)))
    assert found.model.columns == ("clip_score",)
    assert found.model.penalty is None


def test_columns_that_add_something_are_used() -> None:
    names = ("clip_score", "clip_logit", "aum")
    found = learn(features(*sample(clip_score=1.2, clip_logit=1.2, aum=1.2)))
    assert found.model.columns == names
    assert max(found.areas) > found.areas[0] + 0.05
    assert {name: len(row) for name, row in found.weights.items()} == dict.fromkeys(names, 6)


def test_columns_that_look_at_a_whole_shard_are_left_out() -> None:
    """Their canaries are scored among other canaries: a difference that has nothing to do with the pair."""
    assert features(*sample(clip_score=1.0, lemon=3.0, deep_knn=3.0)).columns == ("clip_score",)


def test_where_canaries_look_better_than_real_pairs_there_still_is_a_model() -> None:
    found = learn(features(*sample(clip_score=-2.0)))
    assert found.model.columns == ("clip_score",)
    assert found.model.weights == (1.0,)


def test_columns_without_values_and_columns_of_one_value_are_left_out() -> None:
    canary, real, kinds, folds = sample(clip_score=2.0, harm=1.0, aum=1.0)
    canary["harm"][3] = np.nan
    real["aum"][:] = 1.0
    assert features(canary, real, kinds, folds).columns == ("clip_score",)


def test_every_kind_counts_alike() -> None:
    canary, real, _, folds = sample(clip_score=2.0)
    kinds = np.r_[np.zeros(300, int), np.ones(100, int)]
    weights = features(canary, real, kinds, folds).of_canaries
    assert weights[:300].sum() == pytest.approx(0.5)
    assert weights.sum() == pytest.approx(1)


def test_models_survive_json_to_the_last_bit() -> None:
    found = learn(features(*sample(clip_score=1.0, aum=1.0))).model
    assert Model.from_json(json.loads(json.dumps(found.to_json()))) == found
    for broken in ({}, None, found.to_json() | {"weights": [1.0, 1.0, 1.0]}, found.to_json() | {"more": 1}):
        with pytest.raises(ValueError, match="learned detector"):
            Model.from_json(broken)
