"""Roles of a sample against their definitions, each other, and autograd in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ecif import contrastive as c


def batch(b: int, seed: int = 0, scale: float = 20.0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.nn.functional.normalize(torch.randn(b, 6, generator=generator, dtype=dtype), dim=1) for _ in range(2))
    return c.logits(u, v, scale)


def without(s: Tensor, rows: list[int]) -> Tensor:
    keep = [n for n in range(len(s)) if n not in rows]
    return s[keep][:, keep]


def mask(b: int, rows: list[int]) -> Tensor:
    members = torch.zeros(b, dtype=torch.bool)
    members[rows] = True
    return members


def test_the_loss_is_that_of_open_clip_times_two_b() -> None:
    from open_clip.loss import ClipLoss

    generator = torch.Generator().manual_seed(1)
    u, v = (torch.nn.functional.normalize(torch.randn(9, 5, generator=generator), dim=1) for _ in range(2))
    expected = ClipLoss()(u, v, torch.tensor(14.0)) * 2 * 9
    torch.testing.assert_close(c.batch_loss(c.logits(u, v, 14.0)), expected)


@given(b=st.integers(1, 9), seed=st.integers(0, 10**6), scale=st.sampled_from([1.0, 20.0, 100.0]))
@settings(max_examples=60, deadline=None)
def test_removal_identity(b: int, seed: int, scale: float) -> None:
    """L(all) - Pos_n - NegX_n = L(without n), to 1e-12 of the loss."""
    s = batch(b, seed, scale)
    whole, positive, exact = c.batch_loss(s), c.positive(s), c.negative_exact(s)
    for n in range(b):
        left = c.batch_loss(without(s, [n])) if b > 1 else torch.zeros((), dtype=s.dtype)
        error = (whole - positive[n] - exact[n] - left).abs()
        assert error <= 1e-12 * max(1.0, float(whole))


@given(data=st.data(), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_removal_identity_of_sets(data: st.DataObject, seed: int) -> None:
    rows = data.draw(st.lists(st.integers(0, 6), unique=True, max_size=6))
    s, members = batch(7, seed), mask(7, rows)
    removed = c.positive_of_set(s, members) + c.negative_exact_of_set(s, members)
    assert (c.batch_loss(s) - removed - c.batch_loss(without(s, rows))).abs() < 1e-11


def test_a_set_of_one_is_the_sample_and_a_set_of_two_is_not_the_sum() -> None:
    s = batch(8)
    for role, of_set in ((c.negative, c.negative_of_set), (c.negative_exact, c.negative_exact_of_set)):
        singles = role(s)
        torch.testing.assert_close(of_set(s, mask(8, [3])), singles[3])
        assert (of_set(s, mask(8, [3, 5])) - singles[3] - singles[5]).abs() > 1e-3


def test_first_order_role_is_the_derivative_of_weighting_the_similarities() -> None:
    """Neg_n = d/dzeta L(S + log(zeta) E_n) at zeta = 1, E_n ones on row and column n off the diagonal."""
    s = batch(6)
    for n in range(6):
        zeta = torch.ones((), dtype=s.dtype, requires_grad=True)
        weight = torch.zeros_like(s)
        weight[n, :] = weight[:, n] = 1
        weight[n, n] = 0
        # Row n's own softmax sees all its entries change alike but for the diagonal: only the others' losses count.
        changed = s + torch.log(zeta) * weight
        others = torch.logsumexp(changed, 1) + torch.logsumexp(changed, 0) - 2 * changed.diagonal()
        (slope,) = torch.autograd.grad(others.sum() - others[n], zeta)
        torch.testing.assert_close(c.negative(s)[n], slope)


def test_first_order_role_of_a_pair_against_a_plain_loop() -> None:
    s = batch(5)
    p, q = torch.softmax(s, 1), torch.softmax(s, 0)
    expected = torch.stack([torch.stack([p[k, n] + q[n, k] for k in range(5) if k != n]).sum() for n in range(5)])
    torch.testing.assert_close(c.negative(s), expected)


@pytest.mark.parametrize(
    ("role", "derivative"),
    [(c.positive, c.d_positive), (c.negative, c.d_negative), (c.negative_exact, c.d_negative_exact)],
)
@pytest.mark.parametrize("b", [1, 2, 7])
def test_directional_derivatives_equal_autograd(role, derivative, b: int) -> None:  # type: ignore[no-untyped-def]
    s, ds = batch(b, 3), batch(b, 4, 1.0)
    _, expected, *_ = torch.func.jvp(role, (s,), (ds,))
    torch.testing.assert_close(derivative(s, ds), expected, rtol=1e-10, atol=1e-12)
    jacobian = torch.autograd.functional.jacobian(role, s)
    torch.testing.assert_close(derivative(s, ds), (jacobian * ds).sum((1, 2)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gap", [0.0, 0.1, 0.2, 0.25, 0.5, 1.0])
def test_exact_role_is_right_in_float32_where_one_entry_owns_its_row(gap: float) -> None:
    """A hard negative with a cosine gap up to 1 at s = 100: 1 - P is 1e-44, and the value still has its digits."""
    generator = torch.Generator().manual_seed(7)
    cosines = torch.empty(8, 8, dtype=torch.float64).uniform_(-0.1, 0.0, generator=generator)
    cosines[2, 5] = gap  # image 2 is closest to the caption of 5
    cosines[6, 1] = gap / 2
    s, ds = 100 * cosines, torch.randn(8, 8, generator=generator, dtype=torch.float64)
    single, d_single = s.float(), ds.float()
    value, slope = c.negative_exact(single), c.d_negative_exact(single, d_single)
    assert torch.isfinite(value).all()
    assert torch.isfinite(slope).all()
    expected = c.d_negative_exact(s, ds)
    truth = torch.stack([_removal_slope(s, ds, n) for n in range(8)])
    torch.testing.assert_close(expected, truth, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(slope.double(), truth, rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(value.double(), c.negative_exact(s), rtol=2e-5, atol=2e-5)


def _removal_slope(s: Tensor, ds: Tensor, n: int) -> Tensor:
    """Derivative of L(all) - Pos_n - L(without n) along ds: the exact role by its definition."""
    _, whole, *_ = torch.func.jvp(lambda x: c.batch_loss(x) - c.positive(x)[n], (s,), (ds,))
    _, rest, *_ = torch.func.jvp(c.batch_loss, (without(s, [n]),), (without(ds, [n]),))
    return whole - rest


def test_gradient_of_the_exact_role_is_finite_where_one_entry_owns_its_row() -> None:
    s = torch.zeros(4, 4)
    s[1, 2] = 100.0
    s.requires_grad_()
    (gradient,) = torch.autograd.grad(c.negative_exact(s).sum(), s)
    assert torch.isfinite(gradient).all()


def test_ggn_is_the_hessian_of_the_loss_in_the_logits_and_has_the_square_root() -> None:
    s, ds = batch(4, 5), batch(4, 6, 1.0)
    hessian = torch.autograd.functional.hessian(c.batch_loss, s).reshape(16, 16)
    torch.testing.assert_close(c.ggn_logits_product(s, ds).reshape(16), hessian @ ds.reshape(16))
    zero = torch.zeros_like(s)
    basis = torch.eye(16, dtype=s.dtype).reshape(16, 4, 4)
    root = torch.stack(
        [c.ggn_logits_sqrt(s, e, zero).reshape(16) for e in basis]
        + [c.ggn_logits_sqrt(s, zero, e).reshape(16) for e in basis]
    )
    torch.testing.assert_close(root.T @ root, hessian, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_low_precision_logits_are_raised_to_float32(dtype: torch.dtype) -> None:
    s = batch(5).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for value in (c.positive(s), c.negative(s), c.negative_exact(s), c.d_negative_exact(s, s)):
        assert value.dtype == wide


def test_masked_equal_captions_leave_each_others_softmax() -> None:
    """Every role is that of a loop in which rows and columns run over other captions only."""
    captions = torch.tensor([0, 1, 0, 2, 1, 0])
    s = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    masked = c.mask_equal(s, captions)

    def others(n: int) -> list[int]:
        return [k for k in range(6) if k == n or captions[k] != captions[n]]

    for n in range(6):
        row, column = s[n, others(n)], s[others(n), n]
        expected = torch.logsumexp(row, 0) + torch.logsumexp(column, 0) - 2 * s[n, n]
        torch.testing.assert_close(c.positive(masked)[n], expected)
        kept = [k for k in range(6) if k != n]
        rest = c.batch_loss(c.mask_equal(s[kept][:, kept], captions[kept]))
        gone = c.positive(masked)[n] + c.negative_exact(masked)[n]
        torch.testing.assert_close(c.batch_loss(masked) - gone, rest)


def test_a_batch_of_one_caption_has_no_loss_and_no_nan() -> None:
    s = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) * 100
    masked = c.mask_equal(s, torch.zeros(4, dtype=torch.int64))
    ds = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    for values in (
        c.positive(masked),
        c.d_positive(masked, ds),
        c.d_negative_exact(masked, ds),
        c.ggn_logits_product(masked, ds),
        c.ggn_logits_sqrt(masked, ds, ds),
    ):
        torch.testing.assert_close(values, torch.zeros_like(values))
