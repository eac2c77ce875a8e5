"""LoGra: projections that lift back, within a budget, and closed forms equal to autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ecif import contrastive
from ecif.logra import Head, MatrixProjection, build, positive_head_gradients

SHAPES = {"a": (20, 30), "conv": (6, 3, 4, 4), "bias": (40,), "scale": ()}
CPU = torch.device("cpu")


def projection(rank: int, budget: int = 10**6, seed: int = 0, shapes: dict[str, tuple[int, ...]] = SHAPES):  # type: ignore[no-untyped-def]
    return build(shapes, rank, budget, seed, CPU, torch.float64)


@given(rank=st.integers(1, 50), seed=st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_projecting_what_was_lifted_gives_it_back(rank: int, seed: int) -> None:
    p = projection(rank, seed=seed)
    x = torch.randn(p.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    lifted = p.lift(x)
    assert {name: tuple(part.shape) for name, part in lifted.items()} == SHAPES
    torch.testing.assert_close(p.project(lifted), x)


def test_project_is_the_transpose_of_lift() -> None:
    p = projection(5)
    generator = torch.Generator().manual_seed(0)
    g = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}
    x = torch.randn(p.size, generator=generator, dtype=torch.float64)
    inner = sum(float((g[name] * part).sum()) for name, part in p.lift(x).items())
    assert float(p.project(g) @ x) == pytest.approx(inner)


def test_sides_within_the_rank_are_kept_whole() -> None:
    p = projection(100)
    g = {name: torch.randn(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    for name, part in p.lift(p.project(g)).items():
        torch.testing.assert_close(part, g[name])


def test_the_rank_is_lowered_to_the_budget() -> None:
    p = projection(32, budget=200)
    assert p.size <= 200
    assert p.size > 100  # as much of it as the same rank for all allows
    sizes = [s.stop - s.start for s in p.slices().values()]
    assert sizes == [part.size for part in p.parts.values()]


def test_projections_follow_the_seed() -> None:
    first, same, other = projection(4, seed=1), projection(4, seed=1), projection(4, seed=2)
    torch.testing.assert_close(first.parts["a"].left, same.parts["a"].left, rtol=0, atol=0)
    assert not torch.equal(first.parts["a"].left, other.parts["a"].left)
    assert not torch.equal(first.parts["a"].left[:, :20], first.parts["a"].right[:, :20])


@pytest.mark.parametrize("linear", [False, True], ids=["parameter", "linear layer"])
@pytest.mark.parametrize("rank", [3, 100], ids=["projected", "whole"])
def test_closed_forms_of_the_heads_equal_autograd(linear: bool, rank: int) -> None:
    """Per-sample gradients of Pos_n by autograd, sample by sample, projected afterwards: to 1e-10."""
    generator = torch.Generator().manual_seed(4)
    b, n_image, n_text, d, scale = 6, 9, 7, 5, 12.0

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def head(n_in: int) -> Head:
        shape = (d, n_in) if linear else (n_in, d)
        part = projection(rank, seed=n_in, shapes={"w": shape}).parts["w"]
        return Head(normal(*shape), linear, part)

    h_image, h_text, image, text = normal(b, n_image), normal(b, n_text), head(n_image), head(n_text)

    def positive(w_image: Tensor, w_text: Tensor) -> Tensor:
        z = [h @ (w.T if linear else w) for h, w in ((h_image, w_image), (h_text, w_text))]
        u, v = (torch.nn.functional.normalize(x, dim=1) for x in z)
        return contrastive.positive(contrastive.logits(u, v, scale))

    jacobians = torch.autograd.functional.jacobian(positive, (image.weight, text.weight))
    for got, jacobian, part in zip(
        positive_head_gradients(h_image, h_text, image, text, scale),
        jacobians,
        (image.projection, text.projection),
        strict=True,
    ):
        expected = torch.stack([_project(part, gradient) for gradient in jacobian])
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def _project(part: MatrixProjection, gradient: Tensor) -> Tensor:
    g = gradient if part.left is None else part.left @ gradient
    return (g if part.right is None else g @ part.right.T).reshape(-1)
