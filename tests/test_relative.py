"""Relative influence against brute force: autograd's gradients, a dense H, and probes judged by their own errors."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ecif import contrastive, curvature, relative
from ecif.influence import BatchTerms, Embedded, negative_influence, positive_influence
from ecif.relative import Columns, SquaredNorms

B, WIDTH, PARAMETERS, LOSSES = 7, 5, 10, 3


@dataclass(frozen=True)
class Problem:
    """Gradients by autograd of a small batch, and a dense H.

    Attributes:
        a, b: of the positive and of the negative role of every pair, (B, p). g: of some losses, (R, p).
        h: (p, p). solver: the same H as the library has it.
    """

    a: Tensor
    b: Tensor
    g: Tensor
    h: Tensor
    solver: curvature.Factor
    theta: Tensor
    features: tuple[Tensor, Tensor]


def embed(theta: Tensor, h_image: Tensor, h_text: Tensor) -> tuple[Tensor, Tensor]:
    """One scale and one shift per dimension of the images: a model with p = 10 parameters."""
    return torch.nn.functional.normalize(h_image * theta[:WIDTH] + theta[WIDTH:], dim=1), h_text


@pytest.fixture(scope="module")
def problem() -> Problem:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    theta, features = normal(PARAMETERS), (normal(B, WIDTH), torch.nn.functional.normalize(normal(B, WIDTH), dim=1))

    def roles(theta: Tensor) -> tuple[Tensor, Tensor]:
        s_BB = contrastive.logits(*embed(theta, *features), 5.0)
        return contrastive.positive(s_BB), contrastive.negative_exact(s_BB)

    a, b = torch.autograd.functional.jacobian(roles, theta)
    root = normal(PARAMETERS, PARAMETERS)
    solver = curvature.factorise(root @ root.T, PARAMETERS, "0.3")
    h = root @ root.T + 0.3 * torch.eye(PARAMETERS, dtype=torch.float64)
    return Problem(a, b, normal(LOSSES, PARAMETERS), h, solver, theta, features)


def brute_force(problem: Problem, a: Tensor, b: Tensor) -> Tensor:
    """sqrt(g^T I (I^T I)^+ I^T g) / |g|, letter by letter, (R, N)."""
    found = torch.zeros(len(problem.g), len(a), dtype=torch.float64)
    for r, g in enumerate(problem.g):
        for n in range(len(a)):
            columns = -torch.linalg.solve(problem.h, torch.stack([a[n], b[n]], 1))
            inner = torch.linalg.pinv(columns.T @ columns, rtol=1e-10, hermitian=True)
            found[r, n] = (g @ columns @ inner @ columns.T @ g).sqrt() / g.norm()
    return found


def numerators(problem: Problem, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    w = torch.linalg.solve(problem.h, problem.g.T).T
    return w @ a.T, w @ b.T


def test_all_forms_equal_brute_force(problem: Problem) -> None:
    a, b, d = problem.a, problem.b, problem.a + problem.b
    p, n = numerators(problem, a, b)
    columns = Columns.exact(a, b, problem.solver)
    found = relative.relative_influence(p, n, columns, problem.g.norm(dim=1))
    torch.testing.assert_close(found.value, brute_force(problem, a, b), rtol=1e-9, atol=1e-12)
    moves = torch.linalg.solve(problem.h, d.T).T
    theta = relative.theta_relative(p, n, columns)
    torch.testing.assert_close(theta.value, (problem.g @ moves.T) / moves.norm(dim=1), rtol=1e-9, atol=1e-12)
    own = relative.self_influence(a, b, problem.solver)
    torch.testing.assert_close(own.squares_N, (d * moves).sum(1), rtol=1e-9, atol=1e-12)
    l_relative = relative.l_relative(p + n, own)
    torch.testing.assert_close(l_relative.value, (problem.g @ moves.T) / (d * moves).sum(1).sqrt())
    torch.testing.assert_close(relative.gradient_squares(d).roots.value, d.norm(dim=1))
    for estimate in (found, theta, own.estimate, l_relative, own.roots):
        assert not estimate.error.any()


def test_it_is_the_cosine_with_the_plane(problem: Problem) -> None:
    """A loss whose gradient lies in the plane has 1, one that is orthogonal to it 0."""
    x, y = (torch.linalg.solve(problem.h, rows.T).T[0] for rows in (problem.a, problem.b))
    inside = 2 * x - 3 * y
    basis = torch.linalg.qr(torch.stack([x, y], 1)).Q
    outside = problem.g[0] - basis @ (basis.T @ problem.g[0])
    g = torch.stack([inside, outside])
    w = torch.linalg.solve(problem.h, g.T).T
    columns = Columns.exact(problem.a[:1], problem.b[:1], problem.solver)
    found = relative.relative_influence(w @ problem.a[:1].T, w @ problem.b[:1].T, columns, g.norm(dim=1))
    torch.testing.assert_close(found.value[:, 0], torch.tensor([1.0, 0.0], dtype=torch.float64), atol=1e-7, rtol=0)


def test_columns_that_are_one_line_and_columns_that_are_nothing(problem: Problem) -> None:
    zero = torch.zeros_like(problem.a)
    for a, b in ((problem.a, zero), (zero, problem.b), (problem.a, -2.5 * problem.a), (1e-9 * problem.b, problem.b)):
        p, n = numerators(problem, a, b)
        found = relative.relative_influence(p, n, Columns.exact(a, b, problem.solver), problem.g.norm(dim=1)).value
        column = torch.linalg.solve(problem.h, (b if not a.any() else a).T).T
        line = (problem.g @ column.T).abs() / (problem.g.norm(dim=1, keepdim=True) * column.norm(dim=1))
        torch.testing.assert_close(found, line, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found, brute_force(problem, a, b), rtol=1e-7, atol=1e-12)
    columns = Columns.exact(zero, zero, problem.solver)
    nothing = torch.zeros(LOSSES, B, dtype=torch.float64)
    assert not relative.relative_influence(nothing, nothing, columns, problem.g.norm(dim=1)).value.any()
    assert not relative.theta_relative(nothing, nothing, columns).value.any()
    silent = relative.relative_influence(nothing, nothing, columns, torch.zeros(LOSSES))
    assert not silent.value.any()


def test_opposite_columns_move_nothing(problem: Problem) -> None:
    """A pair whose roles cancel has no move to divide by; rounding must not make it infinite or NaN."""
    columns = Columns.exact(problem.a, -problem.a, problem.solver)
    assert bool((columns.sums.squares_N >= 0).all())
    value = relative.theta_relative(*numerators(problem, problem.a, -problem.a), columns).value
    assert bool(torch.isfinite(value).all())


def along(problem: Problem, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of both roles along directions, by the forward-mode path of scoring, (P, B) each."""
    u, v = embed(problem.theta, *problem.features)

    def roles(direction: Tensor) -> tuple[Tensor, Tensor]:
        _, (du, dv), *_ = torch.func.jvp(lambda t: embed(t, *problem.features), (problem.theta,), (direction,))
        terms = BatchTerms.of(Embedded(u, v, du.unsqueeze(0), dv.unsqueeze(0), 5.0, (0.0,)), "exact")
        return positive_influence(terms), negative_influence(terms)

    return torch.func.vmap(roles)(directions)


def drawn(count: int, seed: int) -> Tensor:
    device = torch.device("cpu")
    return torch.stack([p["theta"] for p in relative.probes({"theta": (PARAMETERS,)}, count, seed, device)])


def test_probes_are_right_within_their_own_error(problem: Problem) -> None:
    """The inner products of I from directions H^-1 r, self-influence from H^(-1/2) r, norms from r."""
    r = drawn(4000, 1)
    p, n = numerators(problem, problem.a, problem.b)
    norms = problem.g.norm(dim=1)
    exact = Columns.exact(problem.a, problem.b, problem.solver)
    probed = Columns.probed(*along(problem, problem.solver.solve(r)))
    own = relative.self_influence(problem.a, problem.b, problem.solver)
    own_probed = relative.probed_squares(sum(along(problem, problem.solver.solve_root(r))))  # type: ignore[arg-type]
    lengths = relative.gradient_squares(problem.a + problem.b)
    lengths_probed = relative.probed_squares(sum(along(problem, r)))  # type: ignore[arg-type]
    for estimate, truth in (
        (relative.relative_influence(p, n, probed, norms), relative.relative_influence(p, n, exact, norms)),
        (relative.theta_relative(p, n, probed), relative.theta_relative(p, n, exact)),
        (relative.l_relative(p + n, own_probed), relative.l_relative(p + n, own)),
        (own_probed.estimate, own.estimate),
        (lengths_probed.roots, lengths.roots),
    ):
        assert bool((estimate.error < 0.03 * estimate.value.abs()).all())
        assert float(((estimate.value - truth.value) / estimate.error).abs().max()) < 4


@pytest.mark.parametrize("rank", [1, 2])
def test_few_probes_are_unbiased_and_know_their_error(problem: Problem, rank: int) -> None:
    """2,000 estimates from 12 probes each: their mean is the truth, their spread what each of them says."""
    a, b = problem.a[:1], problem.b[:1] if rank == 2 else 3 * problem.a[:1]
    p, n = numerators(problem, a, b)
    # A long g keeps the values far below 1, where they would be clamped.
    norms = 10 * problem.g.norm(dim=1)
    repeats = 2000
    x, y = (torch.linalg.solve(problem.h, rows.T) for rows in (a, b))
    r = drawn(12 * repeats, 2).reshape(repeats, 12, PARAMETERS)
    columns = [Columns.probed(part @ x, part @ y) for part in r]
    cases = {
        "relative": (
            [relative.relative_influence(p, n, c, norms) for c in columns],
            relative.relative_influence(p, n, Columns.exact(a, b, problem.solver), norms).value,
        ),
        "theta": (
            [relative.theta_relative(p, n, c) for c in columns],
            relative.theta_relative(p, n, Columns.exact(a, b, problem.solver)).value,
        ),
        "length": ([c.sums.roots for c in columns], Columns.exact(a, b, problem.solver).sums.roots.value),
    }
    for name, (estimates, truth) in cases.items():
        values = torch.stack([estimate.value for estimate in estimates])
        share = (estimates[0].error / estimates[0].value.abs()).flatten()[0]
        spread = values.std(0) / truth.abs()
        torch.testing.assert_close(values.mean(0), truth, rtol=4 * float(share) / repeats**0.5, atol=0, msg=name)
        torch.testing.assert_close(spread, share.expand_as(spread), rtol=0.15, atol=0, msg=name)


def test_an_estimate_never_leaves_its_range(problem: Problem) -> None:
    p, n = numerators(problem, problem.a, problem.b)
    values = [
        relative.relative_influence(
            p, n, Columns.probed(*along(problem, problem.solver.solve(drawn(4, seed)))), problem.g.norm(dim=1)
        ).value
        for seed in range(20)
    ]
    assert float(torch.stack(values).min()) >= 0
    assert float(torch.stack(values).max()) == 1


def test_too_few_probes_are_refused() -> None:
    rows = torch.ones(3, 5)
    with pytest.raises(ValueError, match="4 probes"):
        Columns.probed(rows, rows)
    with pytest.raises(ValueError, match="4 probes"):
        relative.probed_squares(rows)


def test_lengths_of_zero_divide_nothing() -> None:
    squares = SquaredNorms(torch.tensor([0.0, 4.0], dtype=torch.float64))
    influence = torch.tensor([[3.0, 3.0]], dtype=torch.float64)
    assert squares.divide(influence).value.tolist() == [[0.0, 1.5]]
