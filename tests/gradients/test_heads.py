"""Closed forms of the last projections against autograd: both kinds of weight, biases, all roles."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ecif import contrastive, logra
from ecif.gradients import Head, Role, head_gradients
from ecif.gradients.heads import CHUNK
from ecif.logra import MatrixProjection, Projection
from tests.gradients.cases import ROLES, role_values

SCALE = 12.0


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head(n_in: int, d: int, rank: int, *, linear: bool, biased: bool) -> tuple[Head, Projection]:
    shapes: dict[str, tuple[int, ...]] = {"weight": (d, n_in) if linear else (n_in, d)}
    if biased:
        shapes["bias"] = (d,)
    projection = logra.build(shapes, rank, 10**6, n_in, torch.device("cpu"), torch.float64)
    bias = normal(d, seed=n_in + 1) if biased else None
    weight = normal(*shapes["weight"], seed=n_in)
    return Head(weight, linear, projection.parts["weight"], bias, projection.parts.get("bias")), projection


def autograd(
    h: tuple[Tensor, Tensor], heads: tuple[Head, Head], projections: list[Projection], role: Role
) -> list[Tensor]:
    leaves = [{"weight": x.weight.clone().requires_grad_()} for x in heads]
    for leaf, x in zip(leaves, heads, strict=True):
        if x.bias is not None:
            leaf["bias"] = x.bias.clone().requires_grad_()
    z = [
        x @ (leaf["weight"].T if one.is_linear else leaf["weight"]) + leaf.get("bias", torch.zeros(()))
        for x, leaf, one in zip(h, leaves, heads, strict=True)
    ]
    u, v = (torch.nn.functional.normalize(x, dim=1) for x in z)
    values = role_values(contrastive.logits(u, v, SCALE), role)
    found = []
    for leaf, projection in zip(leaves, projections, strict=True):
        rows = [torch.autograd.grad(value, list(leaf.values()), retain_graph=True) for value in values]
        found.append(torch.stack([projection.project(dict(zip(leaf, row, strict=True))) for row in rows]))
    return found


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", ["parameter", "linear layer", "linear layer with bias"])
@pytest.mark.parametrize("rank", [3, 100], ids=["projected", "whole"])
def test_closed_forms_equal_autograd(role: Role, kind: str, rank: int) -> None:
    linear, biased = kind != "parameter", kind.endswith("bias")
    h = normal(6, 9, seed=1), normal(6, 7, seed=2)
    (image, one), (text, other) = (head(n, 5, rank, linear=linear, biased=biased) for n in (9, 7))
    got = head_gradients(*h, image, text, SCALE, role)
    expected = autograd(h, (image, text), [one, other], role)
    for found, right in zip(got, expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)


def test_sums_over_more_samples_than_a_chunk() -> None:
    b = CHUNK + 3
    h = normal(b, 4, seed=1), normal(b, 3, seed=2)
    (image, one), (text, _) = (head(n, 3, 2, linear=False, biased=False) for n in (4, 3))
    got, _ = head_gradients(*h, image, text, SCALE, "negative_exact")
    leaf = image.weight.clone().requires_grad_()
    u = torch.nn.functional.normalize(h[0] @ leaf, dim=1)
    values = contrastive.negative_exact(contrastive.logits(u, text.embed(h[1])[1], SCALE))
    for n in (0, CHUNK, b - 1):
        (gradient,) = torch.autograd.grad(values[n], leaf, retain_graph=True)
        torch.testing.assert_close(got[n], one.parts["weight"].project(gradient), rtol=1e-9, atol=1e-9)


def test_finite_and_right_in_float32_where_one_entry_owns_its_row() -> None:
    """Two captions exchanged at a cosine gap of one and s = 100: hard negatives whose probability rounds to one."""
    h_image = torch.eye(6, dtype=torch.float64)
    h_text = h_image[[3, 1, 2, 0, 4, 5]]
    weight = torch.eye(6, dtype=torch.float64) + 0.01 * normal(6, 6, seed=3)
    part = logra.build({"w": (6, 6)}, 3, 100, 0, torch.device("cpu"), torch.float64).parts["w"]
    assert part.left is not None
    assert part.right is not None
    single = MatrixProjection(part.shape, part.left.float(), part.right.float())
    wide, narrow = Head(weight, False, part), Head(weight.float(), False, single)
    for role in (*ROLES[:1], *ROLES[2:]):  # Neg itself vanishes here, as P (1 - P) does
        right = head_gradients(h_image, h_text, wide, wide, 100.0, role)
        got = head_gradients(h_image.float(), h_text.float(), narrow, narrow, 100.0, role)
        for one, other in zip(right, got, strict=True):
            assert float((other.double() - one).norm() / one.norm()) < 1e-5, role
