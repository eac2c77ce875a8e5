"""Training to the minimum, and again without some pairs: the truth that predictions are held against.

Newton's method with the true Hessian in a trust region: steps by conjugate gradients on Hessian-vector products
(double backward), cut short at the region's edge and at directions of negative curvature (Steihaug, SIAM J. Numer.
Anal. 20, 1983). The gradient norm that was reached is part of the answer: the distance to the minimum is at most that
norm over the smallest eigenvalue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.method.problems import Problem
from ecif import contrastive
from ecif.towers import differentiable_attention

TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Minimum:
    """Where training ended: theta_P, the gradient's norm there, and Newton steps taken."""

    theta: Tensor
    gradient_norm: float
    steps: int


def minimise(
    loss: Callable[[Tensor], Tensor], start: Tensor, tolerance: float = TOLERANCE, steps: int = 300, radius: float = 1.0
) -> Minimum:
    """Descend from `start` until the gradient's norm is at most `tolerance`.

    Args:
        radius: of the first trust region.

    Raises:
        ArithmeticError: it was not reached.
    """
    theta = start.detach().clone()
    norm = float("inf")
    for step in range(steps):
        value = theta.clone().requires_grad_()
        with differentiable_attention():
            height = loss(value)
            (gradient,) = torch.autograd.grad(height, value, create_graph=True)
            norm = float(gradient.detach().norm())
            if norm <= tolerance:
                return Minimum(theta, norm, step)
            while True:
                move, expected = _newton(value, gradient, min(0.1, norm**0.5), tolerance / 2, radius)
                with torch.no_grad():
                    fall = float(height.detach() - loss(theta + move))
                # Close to the minimum the fall is below the rounding of the loss itself.
                slack = 1e-12 * abs(float(height.detach()))
                ratio = (fall + slack) / (expected + slack)
                if ratio < 0.25:
                    radius = float(move.norm()) / 4
                elif ratio > 0.75 and float(move.norm()) > 0.9 * radius:
                    radius *= 2
                if ratio > 1e-3:
                    break
                if radius < 1e-12:
                    raise ArithmeticError(f"no step from a gradient of norm {norm:.1e} lowers the loss")
        theta = theta + move
    raise ArithmeticError(f"not converged in {steps} Newton steps: gradient of norm {norm:.1e}")


def _newton(value: Tensor, gradient: Tensor, relative: float, absolute: float, radius: float) -> tuple[Tensor, float]:
    """-H^-1 gradient within `radius`, to a residual of max(relative |gradient|, absolute), and its expected fall."""
    residual = -gradient.detach()
    target = max(relative * float(residual.norm()), absolute)
    x, step, square = torch.zeros_like(residual), residual.clone(), float(residual @ residual)
    for _ in range(1000):
        (image,) = torch.autograd.grad(gradient, value, step, retain_graph=True)
        curvature = float(step @ image)
        ahead, behind, length = float(step @ step), float(x @ step), square / curvature if curvature > 0 else 0.0
        if curvature <= 0 or float((x + length * step).norm()) >= radius:
            # To the edge: |x + t step| = radius.
            t = (-behind + (behind**2 + ahead * (radius**2 - float(x @ x))) ** 0.5) / ahead
            x, residual = x + t * step, residual - t * image
            break
        x, residual = x + length * step, residual - length * image
        square, previous = float(residual @ residual), square
        if square**0.5 <= target:
            break
        step = residual + (square / previous) * step
    # -(g x + x H x / 2), with H x = -g - residual.
    return x, float(x @ (residual - gradient.detach())) / 2


def from_scratch(problem: Problem, keep_N: Tensor | None = None, epochs: int = 40, lr: float = 2e-3) -> Minimum:
    """Train from theta_0 as models usually are: AdamW, one batch a step, a set number of epochs, no minimum reached.

    Args:
        keep_N: Boolean, the pairs to train on; the others leave their batches. All else stays the same.
    """
    theta = problem.theta_0.clone().requires_grad_()
    optimiser = torch.optim.AdamW([theta], lr=lr, weight_decay=0.1)
    for _ in range(epochs):
        for rows in problem.batches:
            kept = rows if keep_N is None else rows[keep_N[rows]]
            if len(kept) < 2:
                continue
            s_BB = problem.logits(theta, problem.train.take(kept), torch.arange(len(kept)).unsqueeze(0))[0]
            optimiser.zero_grad()
            (contrastive.batch_loss(s_BB) / (2 * len(kept))).backward()
            optimiser.step()
    theta = theta.detach()
    value = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(problem.loss(value, keep_N), value)
    return Minimum(theta, float(gradient.norm()), epochs * len(problem.batches))


def without(problem: Problem, minimum: Tensor, removed: Tensor, tolerance: float = TOLERANCE) -> Minimum:
    """Retrain, from the minimum, without the pairs at the rows `removed`."""
    keep_N = torch.ones(problem.n, dtype=torch.bool)
    keep_N[removed] = False
    return minimise(lambda theta: problem.loss(theta, keep_N), minimum, tolerance)
