"""Curvature of the contrastive loss: sketches, Gram matrices, a damped low-rank factor, and its oracle.

    H = (N / N_fit) sum over fit batches of C_b + delta I

with N the pairs of the corpus, N_fit those of the fit, and C_b the curvature of one batch: the generalised
Gauss-Newton matrix J^T M J (`ggn`), which keeps the coupling between the samples of a batch, or the sum of
outer products of per-sample gradients of Pos (`fisher`), which drops it. Because L_batch is a sum over pairs,
H^-1 grad then means what it says: the change of the parameters when one of N pairs is removed.

A sketch J^T M^(1/2) xi with standard normal xi costs one backward pass and is an unbiased rank-1 sample of
C_b, for any parameters and without hooks. Sketches are projected (`logra`) and their outer products summed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ecif import contrastive

# Accumulating in double precision makes the sum independent of how shards were grouped, to the last digits
# that matter.
GRAM_DTYPE = torch.float64


@dataclass(frozen=True, slots=True)
class Cotangents:
    """What a scalar function of the logits sends back: to u_BD, v_BD and to log s."""

    u_BD: Tensor
    v_BD: Tensor
    log_scale: Tensor


def through_logits(h_BB: Tensor, u_BD: Tensor, v_BD: Tensor, scale: float) -> Cotangents:
    """Pull the cotangent h_BB of S = s U V^T back to U, V and log s."""
    s_BB = contrastive.logits(u_BD, v_BD, scale)
    h = h_BB.to(u_BD.dtype)
    return Cotangents(scale * (h @ v_BD), scale * (h.T @ u_BD), (h_BB * s_BB).sum())


def ggn_sketches(u_BD: Tensor, v_BD: Tensor, scale: float, count: int, generator: torch.Generator) -> list[Cotangents]:
    """`count` independent cotangents M^(1/2) xi of one batch; xi is drawn on the CPU, alike on any device."""
    s_BB = contrastive.logits(u_BD, v_BD, scale)
    found = []
    for _ in range(count):
        xi = torch.randn(2, *s_BB.shape, generator=generator, dtype=torch.float32).to(s_BB)
        found.append(through_logits(contrastive.ggn_logits_sqrt(s_BB, xi[0], xi[1]), u_BD, v_BD, scale))
    return found


def gram(rows_MK: Tensor) -> Tensor:
    """Sum of outer products of the rows, (K, K), in float64."""
    rows = rows_MK.to(GRAM_DTYPE)
    return rows.T @ rows


@dataclass(frozen=True, slots=True)
class Factor:
    """(delta I + Z diag(e) Z^T), the damped curvature in the projected space.

    Attributes:
        vectors: Z, (K, r), orthonormal columns. values: e, (r,), positive, descending. delta: damping.
        mean_eigenvalue: of the undamped curvature before truncation; what relative damping refers to.
    """

    vectors: Tensor
    values: Tensor
    delta: float
    mean_eigenvalue: float

    @property
    def effective_dimension(self) -> float:
        """sum e / (e + delta): how many directions the data, not the damping, decides."""
        return float((self.values / (self.values + self.delta)).sum())

    def solve(self, vector_K: Tensor) -> Tensor:
        """(delta I + Z diag(e) Z^T)^-1 times a vector, by Woodbury."""
        coordinates = self.vectors.T @ vector_K
        shrink = self.values / (self.values + self.delta)
        return (vector_K - self.vectors @ (shrink * coordinates)) / self.delta


def factorise(curvature_KK: Tensor, rank: int, damping: str) -> Factor:
    """Keep the `rank` largest eigenpairs of a summed Gram matrix.

    Args:
        curvature_KK: symmetric, positive semi-definite, already scaled by N / N_fit.
        damping: delta itself, or a multiple of the mean eigenvalue such as '0.1x'.

    Raises:
        ValueError: the matrix is not finite, or is zero while the damping is relative.
    """
    if not torch.isfinite(curvature_KK).all():
        raise ValueError("the curvature has entries that are not finite")
    mean = float(curvature_KK.diagonal().mean())
    delta = float(damping.removesuffix("x")) * (mean if damping.endswith("x") else 1.0)
    if not delta > 0:
        raise ValueError("the curvature is zero, so damping relative to it is zero as well; give an absolute --damping")
    values, vectors = torch.linalg.eigh(curvature_KK)
    values, vectors = values.flip(0), vectors.flip(1)
    # Below this, eigenvalues are rounding errors of the sum.
    floor = values[0] * len(values) * torch.finfo(values.dtype).eps
    keep = min(rank, int((values > floor).sum()))
    return Factor(vectors[:, :keep].contiguous(), values[:keep].contiguous(), delta, mean)


def ggn_product(logits: Callable[[Tensor], Tensor], parameters_P: Tensor, vector_P: Tensor) -> Tensor:
    """J^T M J v, (P,), for a flat parameter vector: the reference that sketches are tested against.

    Args:
        logits: flat parameters -> s_BB, differentiable in forward and reverse mode.
    """
    s_BB, ds_BB, *_ = torch.func.jvp(logits, (parameters_P,), (vector_P,))
    h_BB = contrastive.ggn_logits_product(s_BB, ds_BB)
    _, pull_back, *_ = torch.func.vjp(logits, parameters_P)
    (product,) = pull_back(h_BB)
    return product


def conjugate_gradients(
    matvec: Callable[[Tensor], Tensor], rhs: Tensor, tolerance: float = 1e-10, iterations: int = 1000
) -> Tensor:
    """Solve A x = rhs for a symmetric positive definite A given by its product with a vector.

    Raises:
        ArithmeticError: not converged to |A x - rhs| <= tolerance |rhs|.
    """
    x = torch.zeros_like(rhs)
    residual = rhs.clone()
    step = residual.clone()
    square = residual @ residual
    target = tolerance**2 * square
    for _ in range(iterations):
        if square <= target:
            return x
        image = matvec(step)
        length = square / (step @ image)
        x = x + length * step
        residual = residual - length * image
        square, previous = residual @ residual, square
        step = residual + (square / previous) * step
    raise ArithmeticError(f"conjugate gradients did not converge in {iterations} iterations")
