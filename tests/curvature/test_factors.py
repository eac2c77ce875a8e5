"""Solvers of every structure against dense linear algebra, and through a file and back."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from ecif import curvature, logra
from ecif.curvature import Structure
from ecif.logra import Projection

SHAPES = {"weight": (6, 5), "bias": (4,), "scale": ()}
STRUCTURES: tuple[Structure, ...] = ("joint", "layer", "diagonal")


def projection() -> Projection:
    return logra.build(SHAPES, 3, 1000, 0, torch.device("cpu"), torch.float64)


def rows(count: int = 30) -> Tensor:
    return torch.randn(count, projection().size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def dense(structure: Structure, damping: str) -> Tensor:
    """H as a matrix, from its definition."""
    project, k = projection(), rows().T @ rows()
    size = project.size
    kept, delta = torch.zeros_like(k), torch.zeros(size, dtype=torch.float64)
    number = float(damping.removesuffix("x"))
    relative = damping.endswith("x")
    if structure == "diagonal":
        kept = torch.diag(k.diagonal())
        delta[:] = number * (float(k.diagonal().mean()) if relative else 1)
    elif structure == "joint":
        kept = k
        delta[:] = number * (float(k.diagonal().mean()) if relative else 1)
    else:
        for place in project.slices().values():
            kept[place, place] = k[place, place]
            delta[place] = number * (float(k[place, place].diagonal().mean()) if relative else 1)
    return kept + torch.diag(delta)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("damping", ["0.3", "0.1x"])
def test_solves_and_roots_are_those_of_the_dense_matrix(structure: Structure, damping: str) -> None:
    moments = curvature.second_moments(rows(), projection(), structure)
    solver = curvature.from_moments(moments, structure, 1000, damping)
    h = dense(structure, damping)
    x = torch.randn(4, len(h), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(solver.solve(x), torch.linalg.solve(h, x.T).T)
    torch.testing.assert_close(solver.solve(x[0]), torch.linalg.solve(h, x[0]))
    # The root is symmetric, so applying it twice is the inverse.
    torch.testing.assert_close(solver.solve_root(solver.solve_root(x)), solver.solve(x))
    values = torch.linalg.eigvalsh(h - torch.diag(torch.tensor(list(deltas(solver)), dtype=torch.float64)))
    if not damping.endswith("x"):
        assert solver.effective_dimension == pytest.approx(float((values / (values + 0.3)).sum()))


def deltas(solver: curvature.Curvature) -> list[float]:
    """Damping of each projected number."""
    project = projection()
    by_name = solver.complement(project)
    return [by_name[name] for name, part in project.parts.items() for _ in range(part.size)]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_solver_comes_back_from_its_tensors(structure: Structure) -> None:
    moments = curvature.second_moments(rows(), projection(), structure)
    solver = curvature.from_moments(moments, structure, 4, "0.1x")
    again = curvature.load_factor(load(save(solver.tensors())), tuple(projection().parts))
    x = rows(3)
    torch.testing.assert_close(again.solve(x), solver.solve(x), rtol=0, atol=0)
    assert (again.rank, again.delta, again.mean_eigenvalue) == (solver.rank, solver.delta, solver.mean_eigenvalue)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_moments_do_not_depend_on_the_grouping(structure: Structure) -> None:
    project = projection()
    whole = curvature.second_moments(rows(), project, structure)
    halves = [curvature.second_moments(part, project, structure) for part in rows().split(11)]
    for name, part in whole.items():
        torch.testing.assert_close(sum((half[name] for half in halves[1:]), halves[0][name]), part)


def test_the_identity_divides_by_the_damping() -> None:
    x = rows(2)
    solver = curvature.identity(projection().size, 500, "0.5", torch.device("cpu"))
    torch.testing.assert_close(solver.solve(x), x / 0.5)
    relative = curvature.identity(projection().size, 500, "2x", torch.device("cpu"))
    torch.testing.assert_close(relative.solve(x), x / 1000)
    assert relative.effective_dimension == 0


def test_a_layer_that_the_loss_does_not_reach_is_damped_and_no_error() -> None:
    project = projection()
    found = rows()
    found[:, project.slices()["scale"]] = 0
    solver = curvature.from_moments(curvature.second_moments(found, project, "layer"), "layer", 100, "0.1x")
    assert torch.isfinite(solver.solve(rows(2))).all()


def test_kronecker_curvature_is_diagonal_in_the_eigenvectors_of_its_sides() -> None:
    """EK-FAC is exact where the curvature is a Kronecker product: G = A^(1/2) Xi B^(1/2) has covariance A x B."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    left, right = (torch.linalg.qr(normal(n, n)).Q * torch.linspace(1, 3, n, dtype=torch.float64) for n in (4, 3))
    gradients = [{"w": left @ normal(4, 3) @ right.T} for _ in range(20_000)]
    shapes = {"w": (4, 3)}
    project = logra.build_pca(
        shapes, curvature.sides(gradients), 1, 1, 0, torch.device("cpu"), torch.float64, whole=True
    )
    projected = torch.stack([project.project(g) for g in gradients])
    diagonal = curvature.second_moments(projected, project, "diagonal")
    solver = curvature.from_moments(diagonal, "diagonal", 0, "1e-6")
    exact = 20_000 * torch.kron(left @ left.T, right @ right.T)
    g = normal(4, 3)
    found = project.lift(solver.solve(project.project({"w": g})))["w"]
    expected = torch.linalg.solve(exact, g.reshape(-1)).reshape(4, 3)
    assert float((found - expected).norm() / expected.norm()) < 0.05
