"""Random sketches of the Gauss-Newton matrix: unbiased rank-1 samples of it, one backward pass each.

A sketch is J^T M^(1/2) xi with standard normal xi; its covariance is J^T M J, for any parameters and without
hooks. Here the logits' side of it: cotangents of U, V and log s, which the towers pull back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ecif import contrastive


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


def ggn_sketches(
    u_BD: Tensor,
    v_BD: Tensor,
    scale: float,
    count: int,
    generator: torch.Generator,
    captions_B: Tensor | None = None,
) -> list[Cotangents]:
    """`count` independent cotangents M^(1/2) xi of one batch; xi is drawn on the CPU, alike on any device.

    Args:
        captions_B: if given, equal captions do not compete (`contrastive.mask_equal`).
    """
    s_BB = contrastive.logits(u_BD, v_BD, scale)
    s_BB = s_BB if captions_B is None else contrastive.mask_equal(s_BB, captions_B)
    found = []
    for _ in range(count):
        xi = torch.randn(2, *s_BB.shape, generator=generator, dtype=torch.float32).to(s_BB)
        found.append(through_logits(contrastive.ggn_logits_sqrt(s_BB, xi[0], xi[1]), u_BD, v_BD, scale))
    return found
