"""The study of detectors: its measures against scikit-learn, and its two ways to the same influence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from bench.method.detection_heads import Heads
from bench.method.detection_measures import DRAWS, Judge, _auprc, _auroc, _precision
from bench.method.detection_scores import ALL, Detectors
from bench.method.detection_sets import Features, Model, Set
from bench.method.detection_variants import Variants, harm, single

N, V = 40, 24


def random_set() -> Set:
    """Features without any sense, of which every third pair is called wrong."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def model() -> Model:
        w_image, w_text = normal(6, 4), normal(5, 4)
        return Model(*(Features(normal(n, 6), normal(n, 5), w_image, w_text, 5.0) for n in (N, V)))

    captions = tuple(f"caption {n % 30}" for n in range(N))
    wrong = np.arange(N) % 3 == 0
    halves = np.arange(N) % 2 == 0
    return Set(
        "random", tuple(f"{n}" for n in range(N)), captions, captions[:V], wrong, np.where(wrong, "odd", ""),
        np.ones(N, bool), halves, model(), (model(), model()), "",
    )  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Set:
    return random_set()


def test_influence_along_a_direction_is_that_of_projected_gradients(found: Set) -> None:
    heads = Heads(found, found.model)
    detectors, variants = Detectors(heads), Variants(heads)
    for detector, variant in (("influence", next(iter(variants.table))), ("self_influence", "self-influence")):
        expected = variants.badness(variant)
        np.testing.assert_allclose(detectors.badness(detector), expected, rtol=1e-3, atol=1e-5 * abs(expected).max())


def test_every_detector_and_variant_has_a_finite_score_for_every_pair(found: Set) -> None:
    heads = Heads(found, found.model)
    detectors, variants = Detectors(heads), Variants(heads)
    for badness in [detectors.badness(n) for n in ALL] + [
        variants.badness(n) for n in variants.table if "match" not in n
    ]:
        assert badness.shape == (N,)
        assert np.isfinite(badness).all()


def test_harm_counts_losses_only(found: Set) -> None:
    heads = Heads(found, found.model)
    table = single(heads).tolist()
    expected = [sum(-x for x in row if x < 0) / V for row in table]
    np.testing.assert_allclose(harm(heads).numpy(), expected, rtol=1e-4)


def test_measures_agree_with_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    wrong = generator.random(300) < 0.3
    badness = np.round(generator.normal(size=300) + wrong, 1)  # with ties
    rows = generator.random(300) < 0.7
    judge = Judge(wrong, np.where(wrong, "odd", ""), rows)
    assert (
        judge.auroc(badness) == judge.auroc(badness, "odd") == pytest.approx(roc_auc_score(wrong[rows], badness[rows]))
    )
    assert judge.auprc(badness) == pytest.approx(average_precision_score(wrong[rows], badness[rows]))
    worst = sorted(zip(-badness[rows], wrong[rows], strict=True), key=lambda pair: pair[0])[: round(0.1 * rows.sum())]
    assert judge.precision(badness, 0.1) == pytest.approx(np.mean([bad for _, bad in worst]))


def test_the_bootstrap_resamples_pairs() -> None:
    generator = np.random.default_rng(1)
    wrong = generator.random(200) < 0.3
    badness, other = generator.normal(size=200) + wrong, np.round(generator.normal(size=200), 1)
    judge = Judge(wrong, np.where(wrong, "odd", ""), np.ones(200, bool))
    drawn = np.repeat(np.arange(200), judge._weights[3].astype(int))
    assert judge._weights.shape == (DRAWS, 200)
    for score in (badness, other):
        draws = judge._drawn(score)
        assert _auroc(draws)[3] == pytest.approx(roc_auc_score(wrong[drawn], score[drawn]))
        assert _auprc(draws)[3] == pytest.approx(average_precision_score(wrong[drawn], score[drawn]))
    worst = np.argsort(-badness[drawn], kind="stable")[:20]
    assert _precision(judge._drawn(badness), 0.1)[3] == pytest.approx(wrong[drawn][worst].mean())
    difference = judge.difference(badness, other)
    assert difference.low < difference.value < difference.high
    for pair in (judge.difference_auprc(badness, other), judge.difference_precision(badness, other, 0.1)):
        assert pair.low <= pair.value <= pair.high
    assert judge.difference(badness, badness).low == judge.difference(badness, badness).high == 0
