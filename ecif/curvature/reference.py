"""What the factor is tested against: products with the Gauss-Newton matrix, and conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ecif import contrastive


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
