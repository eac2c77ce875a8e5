"""The ground truth and the predictions of bench.method, on problems small enough for dense algebra."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.method import measures, sensitivity
from bench.method.curvatures import Curvatures, Solver, woodbury
from bench.method.predict import Derivatives, Role, target_gradients, targets
from bench.method.problems import Pairs, Problem, convex, cut, positive_of_kept
from bench.method.retrain import Minimum, minimise, without
from ecif import contrastive
from tests.small_problem import BilinearProblem


def cosine_problem(segmentations: int = 1) -> Problem:
    """Two linear towers with unit-norm embeddings: not convex."""
    generator = torch.Generator().manual_seed(5)
    features = [torch.randn(24, 5, generator=generator, dtype=torch.float64) for _ in range(4)]
    image, text, val_image, val_text = features

    def embed(theta: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor, float]:
        left, right = theta.reshape(2, 5, 3)
        unit = partial(torch.nn.functional.normalize, dim=-1)
        return unit(pairs.image[0] @ left), unit(pairs.text[0] @ right), 5.0

    return Problem(
        name="cosine",
        embed=embed,
        shapes={"left": (5, 3), "right": (5, 3)},
        theta_0=torch.randn(30, generator=generator, dtype=torch.float64),
        delta=10.0,
        train=Pairs((image,), (text + image,)),
        validation=Pairs((val_image,), (val_text + val_image,)),
        batches=cut(24, 8, 0, segmentations),
        validation_batches=cut(24, 8, 1),
        segmentations=segmentations,
        wrong=torch.zeros(24, dtype=torch.bool),
    )


@pytest.fixture(scope="module", params=[convex, lambda _: cosine_problem(), lambda _: cosine_problem(3)])
def trained(request: pytest.FixtureRequest) -> tuple[Problem, Minimum]:
    make: Callable[[int], Problem] = request.param
    problem = make(0)
    return problem, minimise(problem.loss, problem.theta_0, 1e-9)


def test_the_minimum_is_one(trained: tuple[Problem, Minimum]) -> None:
    problem, minimum = trained
    value = minimum.theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(problem.loss(value), value)
    assert float(gradient.norm()) <= 1e-9
    hessian = torch.autograd.functional.hessian(problem.loss, minimum.theta)
    assert float(torch.linalg.eigvalsh(hessian)[0]) > 0


def test_convex_problem_is_the_one_of_the_other_tests() -> None:
    """Two implementations of training agree on the change of the parameters when a pair leaves."""
    other = BilinearProblem(n=32, batch=16)
    problem = convex(0, n=32, batch=16)
    same = replace(
        problem,
        theta_0=other.theta_0,
        train=Pairs((other.h_image,), (other.h_text,)),
        batches=torch.stack(other.batches),
    )
    minimum = minimise(same.loss, same.theta_0, 1e-8).theta
    torch.testing.assert_close(minimum, other.minimum, rtol=0, atol=1e-8)
    retrained = without(same, minimum, torch.tensor([3]), 1e-8).theta
    torch.testing.assert_close(retrained, other.minimise(other.minimum, 3), rtol=0, atol=1e-8)


def test_kept_pairs_of_a_batch_are_the_smaller_batch() -> None:
    s_CBB = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    keep_CB = torch.tensor([[1, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    terms_CB = positive_of_kept(s_CBB, keep_CB)
    expected = contrastive.positive(s_CBB[0][keep_CB[0]][:, keep_CB[0]])
    torch.testing.assert_close(terms_CB[0][keep_CB[0]], expected)
    assert float(terms_CB[~keep_CB].detach().abs().sum()) == 0
    (gradient,) = torch.autograd.grad(terms_CB.sum(), s_CBB)
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("role", ["positive", "ecif", "exact"])
def test_single_predictions_are_derivatives_of_the_roles(trained: tuple[Problem, Minimum], role: Role) -> None:
    problem, minimum = trained
    w_RP = torch.randn(2, len(minimum.theta), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    derivatives = Derivatives(problem, minimum.theta, w_RP)
    negatives = {"ecif": contrastive.negative, "exact": contrastive.negative_exact}

    def roles(theta: Tensor) -> Tensor:
        total = torch.zeros(problem.n, dtype=torch.float64)
        for s_BB, rows in zip(problem.logits(theta, problem.train, problem.batches), problem.batches, strict=True):
            term = contrastive.positive(s_BB) + (negatives[role](s_BB) if role in negatives else 0)
            total = total.index_add(0, rows, term)
        return total / problem.segmentations

    jacobian_NP = torch.autograd.functional.jacobian(roles, minimum.theta)
    torch.testing.assert_close(derivatives.singles(role), w_RP @ jacobian_NP.T, rtol=1e-9, atol=1e-9)
    one = torch.zeros(problem.n, dtype=torch.bool)
    one[4] = True
    torch.testing.assert_close(derivatives.of_set(one, role), derivatives.singles(role)[:, 4], rtol=1e-9, atol=1e-9)


def test_prediction_for_a_set_is_the_derivative_of_what_the_loss_falls_by(trained: tuple[Problem, Minimum]) -> None:
    problem, minimum = trained
    members = torch.arange(problem.n) % 3 == 0
    w = torch.randn(len(minimum.theta), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    _, fall, *_ = torch.func.jvp(lambda t: problem.loss(t) - problem.loss(t, ~members), (minimum.theta,), (w,))
    predicted = Derivatives(problem, minimum.theta, w.unsqueeze(0)).of_set(members, "exact")
    torch.testing.assert_close(predicted[0], fall, rtol=1e-9, atol=1e-9)


def test_per_row_hooks_sum_to_the_gradient_of_the_loss(trained: tuple[Problem, Minimum]) -> None:
    problem, minimum = trained
    w_RP = torch.randn(1, len(minimum.theta), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    derivatives = Derivatives(problem, minimum.theta, w_RP)
    torch.testing.assert_close(derivatives.singles("hook").sum(), derivatives.singles("positive").sum())


def test_exact_solvers_against_dense_matrices(trained: tuple[Problem, Minimum]) -> None:
    problem, minimum = trained
    curvatures = Curvatures(problem, minimum.theta)
    g_RP = target_gradients(problem, minimum.theta, 2)
    eye = torch.eye(len(minimum.theta), dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(problem.loss, minimum.theta)
    dense = {
        "hessian": hessian,
        "ggn": curvatures.ggn(eye) + problem.delta * eye,
        "fisher": curvatures.rows("fisher").T @ curvatures.rows("fisher") + problem.delta * eye,
        "identity": problem.delta * eye,
    }
    for kind, matrix in dense.items():
        found = curvatures.directions(Solver(kind), g_RP)  # type: ignore[arg-type]
        torch.testing.assert_close(found, torch.linalg.solve(matrix, g_RP.T).T, rtol=1e-5, atol=1e-7)
    if problem.name == "convex":
        torch.testing.assert_close(dense["ggn"], hessian)


def test_sketches_have_the_gauss_newton_matrix_as_their_mean(trained: tuple[Problem, Minimum]) -> None:
    problem, minimum = trained
    curvatures = Curvatures(problem, minimum.theta)
    rows = curvatures.rows("sketch", 300)
    exact = curvatures.ggn(torch.eye(len(minimum.theta), dtype=torch.float64))
    assert float((rows.T @ rows - exact).norm() / exact.norm()) < 0.3


def test_layers_projections_and_parts_of_the_parameters(trained: tuple[Problem, Minimum]) -> None:
    problem, minimum = trained
    curvatures = Curvatures(problem, minimum.theta)
    g_RP = target_gradients(problem, minimum.theta, 1)
    reference = curvatures.directions(Solver(), g_RP)
    full = curvatures.directions(Solver(rank=64), g_RP)
    torch.testing.assert_close(full, reference, rtol=1e-5, atol=1e-8)
    whole = curvatures.directions(Solver("sketch", rank=64, init="pca"), g_RP)
    torch.testing.assert_close(whole, curvatures.directions(Solver("sketch"), g_RP), rtol=1e-6, atol=1e-9)
    first = next(iter(problem.shapes))
    size = torch.Size(problem.shapes[first]).numel()
    part = curvatures.directions(Solver(only=(first,)), g_RP)
    blocks = curvatures.directions(Solver(layerwise=True), g_RP)
    assert not part[:, size:].any()
    torch.testing.assert_close(part[:, :size], blocks[:, :size], rtol=1e-5, atol=1e-8)


def test_woodbury_against_dense() -> None:
    generator = torch.Generator().manual_seed(4)
    rows, g = (torch.randn(n, 7, generator=generator, dtype=torch.float64) for n in (3, 2))
    expected = torch.linalg.solve(rows.T @ rows + 0.3 * torch.eye(7, dtype=torch.float64), g.T).T
    torch.testing.assert_close(woodbury(rows, 0.3, g), expected)


def test_relative_damping_counts_in_mean_eigenvalues(trained: tuple[Problem, Minimum]) -> None:
    problem, minimum = trained
    curvatures = Curvatures(problem, minimum.theta)
    g_RP = target_gradients(problem, minimum.theta, 0)
    rows = curvatures.rows("fisher")
    mean = float(torch.linalg.eigvalsh(rows.T @ rows).mean())
    found = curvatures.directions(Solver("fisher", "0.5x"), g_RP)
    torch.testing.assert_close(found, woodbury(rows, 0.5 * mean, g_RP), rtol=1e-6, atol=1e-9)


def test_both_roles_agree_with_retraining_better_than_the_positive_one() -> None:
    problem = convex(0)
    theta = minimise(problem.loss, problem.theta_0, 1e-8).theta
    before = targets(problem, theta, 0)
    singles = range(0, problem.n, 6)
    after = [targets(problem, without(problem, theta, torch.tensor([n]), 1e-8).theta, 0) - before for n in singles]
    actual = torch.cat(after).numpy()
    curvatures = Curvatures(problem, theta)
    derivatives = Derivatives(problem, theta, curvatures.directions(Solver(), target_gradients(problem, theta, 0)))
    ranks = {
        role: float(measures.spearman(derivatives.singles(role)[0, list(singles)].numpy(), actual))
        for role in ("positive", "hook", "exact")
    }
    assert ranks["exact"] > 0.95
    assert ranks["exact"] > max(ranks["positive"], ranks["hook"])
    assert 0.8 < measures.slope(derivatives.singles("exact")[0, list(singles)].numpy(), actual) < 1.2


def test_taking_out_both_roles_is_taking_out_the_pairs(trained: tuple[Problem, Minimum]) -> None:
    problem, minimum = trained
    members = torch.arange(problem.n) % 5 == 0
    parts = {
        (a, b): float(sensitivity.loss_without(problem, members, minimum.theta, positive=a, negative=b))
        for a in (False, True)
        for b in (False, True)
    }
    assert parts[True, True] == pytest.approx(float(problem.loss(minimum.theta, ~members)), rel=1e-12)
    assert parts[False, False] == pytest.approx(float(problem.loss(minimum.theta)), rel=1e-12)
    own = sum(
        float(contrastive.positive_of_set(s_BB, members[rows]))
        for s_BB, rows in zip(
            problem.logits(minimum.theta, problem.train, problem.batches), problem.batches, strict=True
        )
    )
    fall = parts[False, False] - parts[True, False]
    assert np.isclose(fall, own / problem.segmentations)
