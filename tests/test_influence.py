"""Influence of the pairs of a real (tiny) model against autograd, and against retraining."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ecif import contrastive
from ecif.influence import (
    BatchTerms,
    Embedded,
    NegativeRole,
    directional_logits,
    finite_rows,
    negative_influence,
    positive_influence,
)
from ecif.towers import SCALE, Towers
from ecif.towers.loading import load
from tests.small_problem import BilinearProblem
from tests.tiny import write_model

CAPTIONS = ["a red circle", "a blue square", "two dogs", "a cat", "green field", "one tree", "the sea"]
ROLES = {"exact": contrastive.negative_exact, "first-order": contrastive.negative}


def towers_in_float64(folder: Path, trainable: str) -> Towers:
    model, weights = write_model(folder)
    return Towers(load(str(model), str(weights), torch.float64), trainable, torch.device("cpu"))


def images(seed: int) -> Tensor:
    return torch.randn(len(CAPTIONS), 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("trainable", ["heads", "last:1", "all"])
@pytest.mark.parametrize("role", ["exact", "first-order"])
def test_influence_is_the_per_sample_derivative_along_the_direction(
    tmp_path: Path, trainable: str, role: NegativeRole
) -> None:
    """<w, grad Pos_n> and <w, grad of the negative role>, each sample by reverse-mode autograd, to 1e-9."""
    towers = towers_in_float64(tmp_path, trainable)
    generator = torch.Generator().manual_seed(1)
    w = {n: torch.randn(p.shape, generator=generator, dtype=torch.float64) for n, p in towers.parameters.items()}
    image, text = towers.image_stem(images(1)), towers.text_stem(CAPTIONS)
    terms = BatchTerms.of(Embedded(*towers.push_forward([w], image, text), towers.scale, (towers.dscale(w),)), role)
    values = {name: p.clone().requires_grad_() for name, p in towers.parameters.items()}
    u, v = towers.embed(values, image, text)
    s = contrastive.logits(u, v, values[SCALE].exp() if SCALE in values else towers.scale)
    for predicted, exact_B in (
        (positive_influence(terms), contrastive.positive(s)),
        (negative_influence(terms), ROLES[role](s)),
    ):
        for n in range(len(CAPTIONS)):
            gradients = torch.autograd.grad(exact_B[n], list(values.values()), retain_graph=True, allow_unused=True)
            pairs = zip(values, gradients, strict=True)
            exact = sum(float((w[name] * gradient).sum()) for name, gradient in pairs if gradient is not None)
            assert abs(float(predicted[n]) - exact) <= 1e-9 * max(1.0, abs(exact))


def test_gradients_of_the_positive_role_sum_to_that_of_the_loss(tmp_path: Path) -> None:
    towers = towers_in_float64(tmp_path, "last:1")
    values = {name: p.clone().requires_grad_() for name, p in towers.parameters.items()}
    s = contrastive.logits(
        *towers.embed(values, towers.image_stem(images(2)), towers.text_stem(CAPTIONS)), towers.scale
    )
    wanted = list(values.values())
    of_loss = torch.autograd.grad(contrastive.batch_loss(s), wanted, retain_graph=True)
    singles = [torch.autograd.grad(term, wanted, retain_graph=True) for term in contrastive.positive(s)]
    for expected, parts in zip(of_loss, zip(*singles, strict=True), strict=True):
        torch.testing.assert_close(torch.stack(parts).sum(0), expected, rtol=1e-10, atol=1e-12)


def test_directional_logits_include_the_scale() -> None:
    generator = torch.Generator().manual_seed(3)
    u, v, du, dv = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(4))

    def logits(t: Tensor) -> Tensor:
        return (5.0 + 0.7 * t) * ((u + t * du) @ (v + t * dv).T)

    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    _, expected, *_ = torch.func.jvp(logits, (zero,), (one,))
    torch.testing.assert_close(directional_logits(Embedded(u, v, du[None], dv[None], 5.0, (0.7,))), expected)


def test_samples_that_are_not_finite_are_named() -> None:
    x = torch.ones(4, 3)
    bad = x.clone()
    bad[2, 1] = torch.nan
    assert finite_rows(Embedded(x, x, x[None], bad[None], 1.0, (0.0,))).tolist() == [True, True, False, True]


@pytest.fixture(scope="module")
def problem() -> BilinearProblem:
    return BilinearProblem()


def agreement(predicted: np.ndarray, actual: np.ndarray) -> tuple[float, float]:
    """Spearman correlation, and the slope of predicted against actual change."""
    ranks = [np.argsort(np.argsort(change)) for change in (predicted, actual)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1]), float(np.polyfit(actual, predicted, 1)[0])


@pytest.mark.parametrize("role", ["exact", "first-order"])
def test_predicted_change_agrees_with_leave_one_out_retraining(problem: BilinearProblem, role: NegativeRole) -> None:
    rank, slope = agreement(sum(problem.predict(problem.direction(), role)), problem.actual)  # type: ignore[arg-type]
    print(f"{role}: Spearman {rank:.3f}, slope {slope:.3f}")
    assert rank >= 0.9
    assert 0.7 <= slope <= 1.3


def test_without_the_negative_role_the_prediction_is_worse(problem: BilinearProblem) -> None:
    positive, negative = problem.predict(problem.direction(), "exact")
    print(f"positive role only: Spearman, slope = {agreement(positive, problem.actual)}")
    assert agreement(positive + negative, problem.actual)[0] > agreement(positive, problem.actual)[0]
    assert np.abs(positive + negative - problem.actual).mean() < np.abs(positive - problem.actual).mean()


def test_wrong_pairs_have_negative_influence_in_prediction_and_in_fact(problem: BilinearProblem) -> None:
    """The sign of the score: removing a wrong pair lowers the validation loss."""
    for change in (sum(problem.predict(problem.direction(), "exact")), problem.actual):
        assert change[problem.wrong].mean() < 0  # type: ignore[index]
        assert change[problem.wrong].mean() < change[~problem.wrong].mean()  # type: ignore[index]
