"""Directions w = H^-1 g for every choice of H, at the minimum of a small problem.

Exact matrices (`ggn`, `hessian`) are solved by conjugate gradients on products with vectors, those that are sums of
outer products of rows (`fisher`, `sketch`) by Woodbury in the space of the rows, which is what a factor that keeps all
eigenpairs solves; `ekfac` goes through the pipeline's own rotation and diagonal.

Shape suffixes: R targets, P parameters, K projected numbers, M rows of a curvature, C batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench.method.problems import Problem, unflatten
from ecif import contrastive, curvature, logra
from ecif.towers import differentiable_attention

Kind = Literal["identity", "fisher", "sketch", "ggn", "hessian", "ekfac", "ekfac-ggn"]
Init = Literal["random", "pca"]
Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Solver:
    """Which H.

    Attributes:
        kind: the matrix. damping: "true" (the problem's own delta), or a multiple of the mean eigenvalue ("0.1x").
        layerwise: only the blocks within each parameter are kept; relative damping is then each block's own.
        rank: LoGra rank, or 0 for no projection. init: random or pca.
        sketches: per batch, for `sketch` and `ekfac-ggn`. seed: of sketches and projections.
        only: prefixes of the parameters in which w may differ from 0; () for all.
    """

    kind: Kind = "ggn"
    damping: str = "true"
    layerwise: bool = False
    rank: int = 0
    init: Init = "random"
    sketches: int = 16
    seed: int = 0
    only: tuple[str, ...] = ()


class Curvatures:
    """What the solvers of one problem at one theta share."""

    def __init__(self, problem: Problem, theta: Tensor) -> None:
        self.problem = problem
        self.theta = theta
        self._rows: dict[tuple[str, int, int], Tensor] = {}
        self._last: tuple[Solver, Tensor, Tensor] | None = None

    def directions(self, solver: Solver, g_RP: Tensor) -> Tensor:
        """H^-1 g for each row of g_RP, (R, P); the last answer is kept, since roles differ in what comes after it."""
        if self._last is None or self._last[0] != solver or not torch.equal(self._last[1], g_RP):
            self._last = (solver, g_RP, self._directions(solver, g_RP))
        return self._last[2]

    def _directions(self, solver: Solver, g_RP: Tensor) -> Tensor:
        space = self._space(solver)
        if solver.kind.startswith("ekfac"):
            return self._ekfac(solver, g_RP)
        g_RK = space.project(g_RP)
        parts = list(space.slices.values()) if solver.layerwise else [slice(0, g_RK.shape[1])]
        w_RK = torch.zeros_like(g_RK)
        for place in parts:
            w_RK[:, place] = self._solve(solver, space, place, g_RK[:, place])
        return space.lift(w_RK)

    def delta(self, solver: Solver, rows_MK: Tensor) -> float:
        """Damping, relative to the mean eigenvalue of the rows' outer products."""
        if solver.damping == "true":
            return self.problem.delta
        mean = float(rows_MK.square().sum()) / rows_MK.shape[1]
        return float(solver.damping.removesuffix("x")) * mean

    def rows(self, kind: str, count: int = 16, seed: int = 0) -> Tensor:
        """Rows whose outer products sum to the curvature, (M, P): `fisher`, or for `sketch` in expectation."""
        key = (kind, count, seed) if kind == "sketch" else (kind, 0, 0)
        if key not in self._rows:
            self._rows[key] = self._positive() if kind == "fisher" else self._sketches(count, seed)
        return self._rows[key]

    def forget(self) -> None:
        """Drop rows and directions, so that their time can be measured."""
        self._rows.clear()
        self._last = None

    def _solve(self, solver: Solver, space: Space, place: slice, g_RK: Tensor) -> Tensor:
        if solver.kind == "identity":
            # Relative damping counts in units of the curvature that the identity stands for.
            return g_RK / self.delta(solver, space.project(self.rows("sketch"))[:, place])
        kind = "fisher" if solver.kind == "fisher" else "sketch"
        rows_MK = space.project(self.rows(kind, solver.sketches, solver.seed))[:, place]
        delta = self.delta(solver, rows_MK)
        if solver.kind in ("fisher", "sketch"):
            return woodbury(rows_MK, delta, g_RK)
        whole = self.ggn if solver.kind == "ggn" else self.hessian

        def product(x_RK: Tensor) -> Tensor:
            wide = x_RK.new_zeros(len(x_RK), space.size)
            wide[:, place] = x_RK
            return space.project(whole(space.lift(wide)))[:, place] + delta * x_RK

        return conjugate_gradients(product, g_RK)

    def _ekfac(self, solver: Solver, g_RP: Tensor) -> Tensor:
        """Second moments along products of the eigenvectors of the gradients' two sides (EK-FAC, arXiv 1806.03884)."""
        rows_MP = self.rows("fisher") if solver.kind == "ekfac" else self.rows("sketch", solver.sketches, solver.seed)
        shapes = self.problem.shapes
        basis = logra.build_pca(shapes, self._sides(rows_MP), 1, 1, 0, rows_MP.device, rows_MP.dtype, whole=True)
        space = Space.of(basis)
        rows_MK = space.project(rows_MP)
        moments = curvature.second_moments(rows_MK, basis, "diagonal")
        diagonal = curvature.from_moments(moments, "diagonal", basis.size, str(self.delta(solver, rows_MK)))
        return space.lift(diagonal.solve(space.project(g_RP)))

    def _space(self, solver: Solver) -> Space:
        shapes = self.problem.shapes
        if solver.rank:
            budget, device, dtype = 1 << 40, self.theta.device, self.theta.dtype
            if solver.init == "pca":
                sides = self._sides(self.rows("sketch", solver.sketches, solver.seed))
                return Space.of(logra.build_pca(shapes, sides, solver.rank, budget, solver.seed, device, dtype))
            return Space.of(logra.build(shapes, solver.rank, budget, solver.seed, device, dtype))
        return Space.only(self.problem, solver.only)

    def _sides(self, rows_MP: Tensor) -> dict[str, Tensor]:
        return curvature.sides([unflatten(row_P, self.problem.shapes) for row_P in rows_MP])

    def ggn(self, x_RP: Tensor) -> Tensor:
        """J^T M J x of all batches, (R, P), without damping."""
        problem = self.problem

        def logits(theta: Tensor) -> Tensor:
            return problem.logits(theta, problem.train, problem.batches)

        def one(x_P: Tensor) -> Tensor:
            s_CBB, ds_CBB, *_ = torch.func.jvp(logits, (self.theta,), (x_P,))
            return torch.vmap(contrastive.ggn_logits_product)(s_CBB, ds_CBB)

        with differentiable_attention():
            h_RCBB = torch.vmap(one)(x_RP)
            _, pull_back, *_ = torch.func.vjp(logits, self.theta)
            return torch.vmap(lambda h: pull_back(h)[0])(h_RCBB) / problem.segmentations

    def hessian(self, x_RP: Tensor, keep_N: Tensor | None = None) -> Tensor:
        """Hessian of the loss without its damping, of the kept pairs, times x, (R, P)."""
        value = self.theta.clone().requires_grad_()
        with differentiable_attention():
            (gradient,) = torch.autograd.grad(self.problem.loss(value, keep_N), value, create_graph=True)
            (product,) = torch.autograd.grad(gradient, value, x_RP, is_grads_batched=True)
        return product - self.problem.delta * x_RP

    def _positive(self) -> Tensor:
        """Gradients of every Pos_n in every batch it stands in, (M, P)."""
        problem = self.problem
        found = []
        with differentiable_attention():
            for rows in problem.batches:
                value = self.theta.clone().requires_grad_()
                s_CBB = problem.logits(value, problem.train, rows.unsqueeze(0))
                eye = torch.eye(len(rows), dtype=s_CBB.dtype)
                found.append(torch.autograd.grad(contrastive.positive(s_CBB[0]), value, eye, is_grads_batched=True)[0])
        return torch.cat(found) / problem.segmentations**0.5

    def _sketches(self, count: int, seed: int) -> Tensor:
        """`count` rows J^T M^(1/2) xi per batch, with the pipeline's square root of M, (M, P)."""
        problem = self.problem
        generator = torch.Generator().manual_seed(seed)
        found = []
        with differentiable_attention():
            for rows in problem.batches:
                value = self.theta.clone().requires_grad_()
                s_BB = problem.logits(value, problem.train, rows.unsqueeze(0))[0]
                xi = torch.randn(count, 2, *s_BB.shape, generator=generator, dtype=s_BB.dtype)
                h = torch.stack([contrastive.ggn_logits_sqrt(s_BB.detach(), a, b) for a, b in xi])
                found.append(torch.autograd.grad(s_BB, value, h, is_grads_batched=True)[0])
        return torch.cat(found) / (count * problem.segmentations) ** 0.5


@dataclass(frozen=True, slots=True)
class Space:
    """A linear map of parameter vectors, (R, P) -> (R, K), and its transpose."""

    project: Product
    lift: Product
    size: int
    slices: dict[str, slice]

    @classmethod
    def of(cls, projection: logra.Projection) -> Space:
        """LoGra's."""
        shapes = {name: part.shape for name, part in projection.parts.items()}

        def lift(x_K: Tensor) -> Tensor:
            return torch.cat([part.flatten() for part in projection.lift(x_K).values()])

        return cls(
            torch.vmap(lambda x_P: projection.project(unflatten(x_P, shapes))),
            torch.vmap(lift),
            projection.size,
            projection.slices(),
        )

    @classmethod
    def only(cls, problem: Problem, prefixes: tuple[str, ...]) -> Space:
        """The coordinates of parameters whose names start so; all for no prefixes."""
        slices, places, start, stop = {}, [], 0, 0
        for name, shape in problem.shapes.items():
            length = torch.Size(shape).numel()
            if not prefixes or name.startswith(prefixes):
                slices[name] = slice(stop, stop + length)
                places.append(torch.arange(start, start + length))
                stop += length
            start += length
        index = torch.cat(places)

        def lift(x_RK: Tensor) -> Tensor:
            return x_RK.new_zeros(len(x_RK), start).index_copy(1, index, x_RK)

        return cls(lambda x_RP: x_RP[:, index], lift, stop, slices)


def woodbury(rows_MK: Tensor, delta: float, g_RK: Tensor) -> Tensor:
    """(rows^T rows + delta I)^-1 g for each row of g_RK."""
    inner = rows_MK @ rows_MK.T + delta * torch.eye(len(rows_MK), dtype=rows_MK.dtype)
    return (g_RK - torch.linalg.solve(inner, rows_MK @ g_RK.T).T @ rows_MK) / delta


def conjugate_gradients(product: Product, g_RK: Tensor, tolerance: float = 1e-7, iterations: int = 2000) -> Tensor:
    """A^-1 g for each row of g_RK at once, to a residual of `tolerance` times each row's norm.

    Raises:
        ArithmeticError: not reached, or A is not positive definite.
    """
    x, residual = torch.zeros_like(g_RK), g_RK.clone()
    step, square = residual.clone(), residual.square().sum(1)
    target = tolerance**2 * square
    for _ in range(iterations):
        if bool((square <= target).all()):
            return x
        image = product(step)
        curved = (step * image).sum(1)
        active = square > target
        if bool((curved[active] <= 0).any()):
            raise ArithmeticError("conjugate gradients: the matrix is not positive definite")
        length = torch.where(active, square / curved.clamp_min(1e-300), 0.0).unsqueeze(1)
        x, residual = x + length * step, residual - length * image
        square, previous = residual.square().sum(1), square
        step = residual + torch.where(active, square / previous.clamp_min(1e-300), 0.0).unsqueeze(1) * step
    raise ArithmeticError(f"conjugate gradients did not converge in {iterations} iterations")
