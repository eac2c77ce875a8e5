"""Detectors that are derivatives along a direction, against gradients of one pair after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ecif import contrastive
from ecif.detectors import (
    forward_inf,
    if_ekfac,
    influence,
    negative_influence,
    pointwise,
    positive_influence,
    tracin,
    trak,
    vif,
)
from ecif.detectors.views import BatchView, Change
from ecif.influence import Embedded, NegativeRole
from tests.detectors.heads import SCALE, Heads

N = 6


def gradients(problem: Heads, term: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Gradient of term(theta, n) for every pair, (N, parameters)."""
    rows: list[Tensor] = []
    for n in range(problem.n):
        theta = problem.theta.clone().requires_grad_()
        rows += torch.autograd.grad(term(theta, n), theta)
    return torch.stack(rows)


def loss(problem: Heads, theta: Tensor, without: int | None = None) -> Tensor:
    """L_batch of open softmaxes, of all pairs or of those that stay."""
    stay = [k for k in range(problem.n) if k != without]
    s = problem.logits(theta)[stay][:, stay]
    return -(torch.log_softmax(s, 1).diagonal() + torch.log_softmax(s, 0).diagonal()).sum()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("detector", [positive_influence, tracin])
def test_positive_role(detector) -> None:  # type: ignore[no-untyped-def]
    problem = Heads(N)
    w = problem.random_direction()

    def pos(theta: Tensor, n: int) -> Tensor:
        s = problem.logits(theta)
        return -torch.log_softmax(s[n], 0)[n] - torch.log_softmax(s[:, n], 0)[n]

    close(detector.compute(problem.view(influence=w, gradient=w)), gradients(problem, pos) @ w)


@pytest.mark.parametrize("role", ["exact", "first-order"])
def test_negative_role_and_their_sum(role: NegativeRole) -> None:
    problem = Heads(N)
    w = problem.random_direction()

    def neg(theta: Tensor, n: int) -> Tensor:
        s = problem.logits(theta)
        total = s.new_zeros(())
        for k in (k for k in range(N) if k != n):
            for p in (torch.softmax(s[k], 0)[n], torch.softmax(s[:, k], 0)[n]):
                total = total + (-torch.log(1 - p) if role == "exact" else p)
        return total

    view = problem.view(role, influence=w)
    close(negative_influence.compute(view), gradients(problem, neg) @ w)
    close(influence.compute(view), positive_influence.compute(view) + gradients(problem, neg) @ w)


@pytest.mark.parametrize("role", ["exact", "first-order"])
def test_vif_is_the_difference_of_the_losses_with_and_without_the_pair(role: NegativeRole) -> None:
    problem = Heads(N)
    w = problem.random_direction()
    difference = gradients(problem, lambda theta, n: loss(problem, theta) - loss(problem, theta, without=n))
    close(vif.compute(problem.view(role, influence=w)), difference @ w)


def test_pointwise_derivative_of_if_ekfac_and_trak() -> None:
    problem = Heads(N)
    w = problem.random_direction()
    expected = gradients(problem, problem.pointwise) @ w
    close(if_ekfac.compute(problem.view(ekfac=w)), expected)
    close(trak.compute(problem.view(trak=w)), expected)
    whole = positive_influence.compute(problem.view(influence=w))
    assert (whole - expected).abs().max() > 0.01 * expected.abs().max()


def test_pointwise_derivative_along_the_logit_scale() -> None:
    """A change of the scale moves all logits, also those of a detached table."""
    problem = Heads(N)
    u, v = problem.embed(problem.theta, problem.h_image, problem.h_text)
    still = torch.zeros(1, *u.shape, dtype=u.dtype)
    change = Change.of(Embedded(u, v, still, still, SCALE, (0.5,)), 0)
    view = BatchView(problem.logits(problem.theta), SCALE, "exact", torch.arange(N), {"ekfac": change})
    scale = torch.tensor(SCALE, dtype=torch.float64)
    _, expected, *_ = torch.func.jvp(
        lambda s: contrastive.positive(s * u @ v.T), (scale,), (torch.tensor(0.5, dtype=torch.float64),)
    )
    close(if_ekfac.compute(view), expected)


def test_pointwise_cotangents_give_the_same_gradients() -> None:
    problem = Heads(N)
    u, v = problem.embed(problem.theta, problem.h_image, problem.h_text)
    c_u, c_v = pointwise.cotangents(u, v, SCALE)

    def pulled(theta: Tensor, n: int) -> Tensor:
        own_u, own_v = problem.embed(theta, problem.h_image[n : n + 1], problem.h_text[n : n + 1])
        return (own_u[0] * c_u[n]).sum() + (own_v[0] * c_v[n]).sum()

    close(gradients(problem, pulled), gradients(problem, problem.pointwise))


def test_trak_is_a_product_with_the_kernel() -> None:
    fit, problem = Heads(12, seed=3), Heads(N)
    fit.theta = problem.theta
    phi, mine = gradients(fit, fit.pointwise), gradients(problem, problem.pointwise)
    validation = problem.validation_gradient()
    kernel = phi.T @ phi
    damped = kernel + 0.1 * kernel.trace() / len(kernel) * torch.eye(len(kernel), dtype=torch.float64)
    w = trak.direction(phi, validation, 0.1)
    close(trak.compute(problem.view(trak=w)), mine @ torch.linalg.inv(damped) @ validation)


def test_forward_inf_is_the_fall_of_the_loss_and_tracin_for_short_steps() -> None:
    problem = Heads(N)
    g = problem.validation_gradient()
    step = 1e-6
    view = replace(problem.view(gradient=g), stepped_BB=problem.logits(problem.theta - step * g))
    found = forward_inf.compute(view)
    before, after = problem.logits(problem.theta), problem.logits(problem.theta - step * g)
    for n in range(N):
        fall = sum(
            sign * float(torch.log_softmax(s[n], 0)[n] + torch.log_softmax(s[:, n], 0)[n])
            for sign, s in ((1, after), (-1, before))
        )
        assert float(found[n]) == pytest.approx(fall, abs=1e-13)
    torch.testing.assert_close(found / step, tracin.compute(view), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="step"):
        forward_inf.compute(problem.view())
