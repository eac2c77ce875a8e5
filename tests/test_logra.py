"""LoGra: projections that lift back, within a budget."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecif import curvature
from ecif.logra import Projection, build, build_pca, load_projection

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


def low_rank_gradients() -> list[dict[str, torch.Tensor]]:
    """Gradients of a (20, 30) matrix that live in a 3 x 4 block of directions, with little noise."""
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    left, right = torch.linalg.qr(normal(20, 3)).Q, torch.linalg.qr(normal(30, 4)).Q
    return [{"a": left @ normal(3, 4) @ right.T + 1e-3 * normal(20, 30)} for _ in range(50)]


def test_pca_finds_the_subspace_and_random_rows_do_not() -> None:
    gradients = low_rank_gradients()
    pca = build_pca({"a": (20, 30)}, curvature.sides(gradients), 4, 1000, 0, CPU, torch.float64)
    random = build({"a": (20, 30)}, 4, 1000, 0, CPU, torch.float64)

    def kept(p: Projection) -> float:
        return sum(float(p.project(g).square().sum()) for g in gradients) / sum(
            float(g["a"].square().sum()) for g in gradients
        )

    assert kept(pca) > 0.999
    assert kept(random) < 0.2


@pytest.mark.parametrize("whole", [False, True])
def test_pca_rows_are_orthonormal_and_whole_is_a_rotation(whole: bool) -> None:
    gradients = [
        {
            name: torch.randn(shape, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
            for name, shape in SHAPES.items()
        }
        for n in range(60)
    ]
    p = build_pca(SHAPES, curvature.sides(gradients), 5, 100, 0, CPU, torch.float64, whole=whole)
    x = torch.randn(p.size, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(p.project(p.lift(x)), x)
    if whole:
        for name, part in p.lift(p.project(gradients[0])).items():
            torch.testing.assert_close(part, gradients[0][name])
    else:
        assert p.size <= 100


def test_a_projection_comes_back_from_its_tensors_and_refuses_other_parameters() -> None:
    p = projection(5)
    again = load_projection(p.tensors(), SHAPES, CPU, torch.float64)
    x = torch.randn(p.size, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    for name, part in p.lift(x).items():
        torch.testing.assert_close(again.lift(x)[name], part, rtol=0, atol=0)
    with pytest.raises(ValueError, match="other parameters"):
        load_projection(p.tensors(), {"b": (20, 30)}, CPU, torch.float64)
    with pytest.raises(ValueError, match="instead of 21"):
        load_projection(p.tensors(), SHAPES | {"a": (21, 30)}, CPU, torch.float64)
