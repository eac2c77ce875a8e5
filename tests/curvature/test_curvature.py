"""Curvature: sketches are unbiased, the factor solves, conjugate gradients are the oracle."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ecif import contrastive, curvature
from tests.small_problem import BilinearProblem


@pytest.fixture(scope="module")
def problem() -> BilinearProblem:
    return BilinearProblem(n=24, batch=8, width=3)


def dense_ggn(problem: BilinearProblem) -> Tensor:
    size = len(problem.minimum)
    return torch.stack([problem.ggn(e) for e in torch.eye(size, dtype=torch.float64)])


def sketch_gram(problem: BilinearProblem, count: int) -> Tensor:
    """Gram matrix of `count` sketches a batch, pulled back to the parameters by autograd."""
    generator = torch.Generator().manual_seed(0)
    theta = problem.minimum.clone().requires_grad_()
    total = torch.zeros(len(theta), len(theta), dtype=torch.float64)
    for rows in problem.batches:
        u, v = problem.embedded(theta, problem.h_image[rows], problem.h_text[rows])
        sketches = curvature.ggn_sketches(u.detach(), v.detach(), 1.0, count, generator)
        gradients = [torch.autograd.grad(u, theta, c.u_BD, retain_graph=True)[0] for c in sketches]
        total += curvature.gram(torch.stack(gradients)) / count
    return total


def test_the_ggn_product_is_the_hessian_where_the_logits_are_linear(problem: BilinearProblem) -> None:
    def loss(theta: Tensor) -> Tensor:
        return problem.loss(theta) - problem.delta / 2 * (theta - problem.theta_0).square().sum()

    hessian = torch.autograd.functional.hessian(loss, problem.minimum)
    torch.testing.assert_close(dense_ggn(problem), hessian, rtol=1e-8, atol=1e-8)


def test_sketches_are_unbiased(problem: BilinearProblem) -> None:
    """The error of the mean of m sketches falls like 1 / sqrt(m)."""
    exact = dense_ggn(problem)
    errors = [float((sketch_gram(problem, m) - exact).norm() / exact.norm()) for m in (50, 5000)]
    assert errors[1] < 0.05
    assert errors[1] < errors[0] / 4


def test_the_factor_of_many_sketches_gives_the_direction_of_conjugate_gradients(problem: BilinearProblem) -> None:
    """Map and reduce, without a projection, against GGN products with CG: w within a few per cent."""
    factor = curvature.factorise(sketch_gram(problem, 5000), 1000, str(problem.delta))
    w, oracle = factor.solve(problem.validation_gradient()), problem.direction()
    assert float((w - oracle).norm() / oracle.norm()) < 0.03
    assert float(torch.cosine_similarity(w, oracle, dim=0)) > 0.999


def random_gram(size: int, rank: int) -> Tensor:
    rows = torch.randn(rank, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return curvature.gram(rows)


@pytest.mark.parametrize("rank", [4, 12, 40])
def test_woodbury_equals_a_dense_solve(rank: int) -> None:
    """Exactly where the factor keeps everything; of the truncated matrix where it does not."""
    k = random_gram(12, 30)
    factor = curvature.factorise(k, rank, "0.5")
    kept = factor.vectors @ torch.diag(factor.values) @ factor.vectors.T
    if rank >= 12:
        torch.testing.assert_close(kept, k)
    g = torch.arange(12, dtype=torch.float64)
    expected = torch.linalg.solve(kept + 0.5 * torch.eye(12, dtype=torch.float64), g)
    torch.testing.assert_close(factor.solve(g), expected)


def test_a_gram_matrix_of_few_rows_keeps_only_its_rank() -> None:
    factor = curvature.factorise(random_gram(20, 5), 20, "0.1x")
    assert len(factor.values) == 5
    assert 0 < factor.effective_dimension < 5


def test_damping_is_absolute_or_relative_to_the_mean_eigenvalue() -> None:
    k = random_gram(12, 30)
    mean = float(torch.linalg.eigvalsh(k).mean())
    assert curvature.factorise(k, 12, "0.1x").delta == pytest.approx(0.1 * mean)
    assert curvature.factorise(k, 12, "7").delta == 7.0


def test_a_curvature_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        curvature.factorise(torch.full((2, 2), torch.nan), 2, "1")
    with pytest.raises(ValueError, match="zero"):
        curvature.factorise(torch.zeros(2, 2), 2, "0.1x")


def test_conjugate_gradients_say_when_they_do_not_converge() -> None:
    a = torch.diag(torch.logspace(0, 12, 30, dtype=torch.float64))
    b = torch.ones(30, dtype=torch.float64)
    with pytest.raises(ArithmeticError):
        curvature.conjugate_gradients(lambda x: a @ x, b, iterations=3)
    torch.testing.assert_close(curvature.conjugate_gradients(lambda x: x / 4, b), 4 * b)


def test_cotangents_of_the_logits_are_those_of_autograd() -> None:
    generator = torch.Generator().manual_seed(2)
    u, v, h = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((5, 3), (5, 3), (5, 5)))
    log_scale = torch.tensor(1.3, dtype=torch.float64)
    leaves = [x.clone().requires_grad_() for x in (u, v, log_scale)]
    s = contrastive.logits(leaves[0], leaves[1], leaves[2].exp())
    expected = torch.autograd.grad((h * s).sum(), leaves)
    found = curvature.through_logits(h, u, v, float(log_scale.exp()))
    for got, want in zip((found.u_BD, found.v_BD, found.log_scale), expected, strict=True):
        torch.testing.assert_close(got, want)
