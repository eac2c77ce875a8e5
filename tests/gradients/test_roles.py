"""dF_n / dS in closed form: against autograd, and in float32 where one entry owns its row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ecif import contrastive
from ecif.gradients import Role, logit_gradients
from ecif.gradients.roles import cotangents, directional, terms
from tests.gradients.cases import ROLES, role_values


def batch(b: int, scale: float = 6.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.nn.functional.normalize(torch.randn(2, b, 5, generator=generator, dtype=torch.float64), dim=2)
    return u, v, contrastive.logits(u, v, scale)


def jacobian(s_BB: Tensor, role: Role) -> Tensor:
    return torch.autograd.functional.jacobian(lambda s: role_values(s, role), s_BB)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("b", [1, 2, 3, 8])
def test_logit_gradients_equal_autograd(role: Role, b: int) -> None:
    _, _, s = batch(b)
    rows = torch.arange(b).flip(0)[: max(1, b - 1)]
    torch.testing.assert_close(logit_gradients(s, role, rows), jacobian(s, role)[rows], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("role", ROLES)
def test_derivatives_along_a_change_of_the_logits(role: Role) -> None:
    _, _, s = batch(7)
    ds = torch.randn(7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = (jacobian(s, role) * ds).sum((1, 2))
    torch.testing.assert_close(directional(terms(s, role), ds), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("role", ROLES)
def test_cotangents_reach_every_embedding(role: Role) -> None:
    u, v, s = batch(7)
    g = jacobian(s, role)
    rows, members = torch.tensor([5, 0, 2]), torch.tensor([6, 2, 3, 0])
    found = terms(s, role)
    got = cotangents(found, v, 6.0, rows, members)
    torch.testing.assert_close(got, (6.0 * g @ v)[rows][:, members], rtol=1e-11, atol=1e-12)
    flipped = tuple(term.transposed() for term in found)
    got = cotangents(flipped, u, 6.0, rows, members)
    torch.testing.assert_close(got, (6.0 * g.mT @ u)[rows][:, members], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("gap", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("role", ["negative_exact", "removal"])
def test_one_entry_owns_its_row(role: Role, gap: float) -> None:
    """A cosine gap of `gap` at s = 100 in float32: 1 - P is 1e-9 to 1e-44, and 1 / (1 - P) overflows from 0.25 on."""
    _, _, s = batch(6, scale=1.0)
    s = 10 * s
    s[0, 3] = s.amax() + 100 * gap  # a hard negative of row 0 and of column 3
    s[2, 2] = s.amax() + 100 * gap  # a pair that is certain of itself
    exact = logit_gradients(s, role, torch.arange(6))
    got = logit_gradients(s.float(), role, torch.arange(6))
    assert torch.isfinite(got).all()
    assert float((got.double() - exact).norm() / exact.norm()) < 2e-6
    # Not only next to the largest numbers: every entry, as far as float32 can hold it next to a probability.
    torch.testing.assert_close(got.double(), exact, rtol=1e-4, atol=1e-6)


def test_removal_is_the_sum_of_both_roles() -> None:
    _, _, s = batch(6)
    every = torch.arange(6)
    parts = logit_gradients(s, "positive", every) + logit_gradients(s, "negative_exact", every)
    torch.testing.assert_close(logit_gradients(s, "removal", every), parts)
