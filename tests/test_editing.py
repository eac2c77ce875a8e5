"""Model editing: the gradient of a set, and edited against retrained parameters."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from ecif import contrastive, curvature, editing
from ecif.influence import NegativeRole
from tests.small_problem import BilinearProblem


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class SetProblem(BilinearProblem):
    """The small problem with a set of pairs down-weighted by a share, or removed altogether."""

    gone: Tensor = torch.zeros(0, dtype=torch.int64)
    share: float = 1.0
    role: NegativeRole = "exact"

    def loss(self, theta: Tensor, removed: int | None = None) -> Tensor:
        total = super().loss(theta, removed)
        for rows in self.batches:
            members = torch.isin(rows, self.gone)
            total = total - self.share * editing.set_role(self.logits(theta, rows), members, self.role)
        return total

    def retrained(self, gone: list[int], share: float = 1.0, role: NegativeRole = "exact") -> Tensor:
        start = self.minimum
        self.gone, self.share, self.role = torch.tensor(gone), share, role
        try:
            return self.minimise(start)
        finally:
            self.gone = torch.zeros(0, dtype=torch.int64)

    def set_gradient(self, gone: list[int], role: NegativeRole) -> Tensor:
        """grad Pos(D) + grad Neg(D) over all batches, by the cotangents of the module."""
        total = torch.zeros_like(self.minimum)
        for rows in self.batches:
            members = torch.isin(rows, torch.tensor(gone))
            image, text = self.h_image[rows], self.h_text[rows]
            u, pull_back, *_ = torch.func.vjp(partial(self.embedded_images, image), self.minimum)
            cotangents = editing.set_cotangents(u, text, 1.0, members, role)
            total = total + pull_back(cotangents.u_BD)[0]
        return total

    def embedded_images(self, image: Tensor, theta: Tensor) -> Tensor:
        return image @ theta.reshape(self.width, self.width)

    def edited(self, gone: list[int], role: NegativeRole) -> Tensor:
        gradient = self.set_gradient(gone, role)
        step = curvature.conjugate_gradients(lambda x: self.ggn(x) + self.delta * x, gradient)
        return editing.edited({"w": self.minimum}, {"w": step})["w"]


@pytest.fixture(scope="module")
def problem() -> SetProblem:
    return SetProblem()


@pytest.mark.parametrize("members", [[], [0], [2, 5], [0, 1, 3, 6], list(range(7))])
def test_the_exact_set_role_is_the_difference_of_the_batch_losses(members: list[int]) -> None:
    """Value and autograd gradient of L(all) - L(without D), to 1e-12."""
    u, v = (torch.nn.functional.normalize(normal(7, 4, seed=n), dim=1) for n in (1, 2))
    mask = torch.zeros(7, dtype=torch.bool)
    mask[members] = True
    image, text, log_scale = u.clone().requires_grad_(), v.clone().requires_grad_(), torch.tensor(2.0).double()
    log_scale.requires_grad_()

    def loss(rows: Tensor) -> Tensor:
        return contrastive.batch_loss(contrastive.logits(image[rows], text[rows], log_scale.exp()))

    every = torch.arange(7)
    difference = loss(every) - (loss(every[~mask]) if len(members) < 7 else 0)
    s = contrastive.logits(u, v, float(log_scale.detach().exp()))
    torch.testing.assert_close(editing.set_role(s, mask, "exact"), difference.detach(), rtol=0, atol=1e-12)
    expected = torch.autograd.grad(difference, [image, text, log_scale])
    found = editing.set_cotangents(u, v, float(log_scale.detach().exp()), mask, "exact")
    for want, got in zip(expected, (found.u_BD, found.v_BD, found.log_scale), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_the_first_order_set_role_is_that_of_the_paper() -> None:
    """Pos(D) + sum over n in D, k not in D of P_kn + Q_nk, and its gradient in the logits."""
    s = (3 * normal(6, 6)).requires_grad_()
    inside, outside = [1, 4], [0, 2, 3, 5]
    p, q = torch.softmax(s, 1), torch.softmax(s, 0)
    terms = [contrastive.positive(s)[n] + sum(p[k, n] + q[n, k] for k in outside) for n in inside]
    mask = torch.tensor([n in inside for n in range(6)])
    (want,) = torch.autograd.grad(terms[0] + terms[1], s)
    (got,) = torch.autograd.grad(editing.set_role(s, mask, "first-order"), s)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("role", ["exact", "first-order"])
def test_a_set_inside_a_batch_is_not_the_sum_of_its_members_and_across_batches_it_is(
    problem: SetProblem, role: NegativeRole
) -> None:
    together, apart = [0, 1, 2, 3], [0, 32, 64]
    for gone, additive in ((together, False), (apart, True)):
        singles = torch.stack([problem.set_gradient([n], role) for n in gone]).sum(0)
        difference = (problem.set_gradient(gone, role) - singles).norm() / singles.norm()
        assert (difference < 1e-12) == additive


def test_removing_nothing_changes_nothing(problem: SetProblem) -> None:
    assert torch.equal(problem.edited([], "exact"), problem.minimum)


@pytest.mark.parametrize(("role", "most"), [("exact", 0.2), ("first-order", 0.3)])
def test_edited_parameters_are_near_retrained_ones(problem: SetProblem, role: NegativeRole, most: float) -> None:
    """Four pairs of 96, of one batch and of several: relative error of the change of the parameters."""
    for gone in ([1, 2, 3, 4], [8, 16, 40, 80]):
        retrained = problem.retrained(gone)
        error = (problem.edited(gone, role) - retrained).norm() / (retrained - problem.minimum).norm()
        assert error < most


@pytest.mark.parametrize("role", ["exact", "first-order"])
def test_the_step_is_the_derivative_of_the_minimum(problem: SetProblem, role: NegativeRole) -> None:
    """With the set down-weighted by a share, the relative error falls as the share does."""
    gone = [1, 2, 3, 4, 40, 80]
    step = problem.edited(gone, role) - problem.minimum
    errors = []
    for share in (0.1, 0.01, 0.001):
        change = problem.retrained(gone, share, role) - problem.minimum
        errors.append(float((share * step - change).norm() / change.norm()))
    assert errors[0] < 0.05
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.2)
    assert errors[2] == pytest.approx(errors[1] / 10, rel=0.2)


def test_a_set_half_as_large_is_predicted_about_twice_as_well(problem: SetProblem) -> None:
    """Mean relative error over four random orders of removal, for 32, 16, 8 and 4 pairs of 96."""
    errors = np.zeros((4, 4))
    for seed, row in enumerate(errors):
        order = np.random.default_rng(seed).permutation(problem.n).tolist()
        for place, n in enumerate((32, 16, 8, 4)):
            retrained = problem.retrained(order[:n])
            change = (retrained - problem.minimum).norm()
            row[place] = (problem.edited(order[:n], "exact") - retrained).norm() / change
    mean = errors.mean(0)
    assert mean[3] < 0.1
    assert ((mean[:-1] / mean[1:] > 1.5) & (mean[:-1] / mean[1:] < 3)).all()


def test_the_predicted_change_of_a_loss_has_the_sign_and_size_of_retraining(problem: SetProblem) -> None:
    """Two wrong pairs (predicted -0.0361, retrained -0.0359) and two right ones (0.0098, 0.0124)."""
    before = problem.validation_loss(problem.minimum)
    for gone in ([8, 40], [9, 41]):
        step = problem.edited(gone, "exact") - problem.minimum
        predicted = editing.predicted_change({"w": problem.validation_gradient()}, {"w": step})
        actual = float(problem.validation_loss(problem.retrained(gone)) - before)
        assert predicted == pytest.approx(actual, rel=0.25)


def test_norms_and_types_of_an_edit() -> None:
    parameters = {"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}
    assert editing.norm(parameters) == 5.0
    moved = editing.edited(parameters, {"a": torch.tensor([1e-9], dtype=torch.float64), "b": torch.tensor([[0.5]])})
    assert moved["a"].dtype == torch.float32
    assert moved == {"a": torch.tensor([3.0]), "b": torch.tensor([[4.5]])}
