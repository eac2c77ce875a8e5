"""Model editing: the parameters as they would be, to first order, had a set of pairs never been trained on.

    theta without D  ~  theta + H^-1 ( grad Pos(D) + grad Neg(D) )            (arXiv 2411.11667, model editing)

D may hold many pairs of many batches. Pairs that leave one batch together also stop being each other's
negatives, so inside a batch both roles are those of the set (`contrastive`), which are not the sums of its
members' roles; sets in different batches add up. With the exact negative role, Pos(D) + NegX(D) of a batch is
L_batch less the loss of what is left of it, so its gradient is the change of the objective itself.

A gradient is wanted of the whole set only, hence one cotangent per batch goes back through the logits, and its
pull-back through the towers is linear: cotangents of one pair in several batches may be added before it.

Shape suffixes as in `contrastive`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ecif import contrastive
from ecif.curvature import Cotangents, through_logits
from ecif.influence import NegativeRole


def set_role(s_BB: Tensor, members_B: Tensor, role: NegativeRole) -> Tensor:
    """Pos(D) + Neg(D) of one batch, a scalar: what its loss falls by when the set leaves (exactly, or to first order).

    Args:
        members_B: Boolean mask of D in this batch; it may hold none or all of it.
    """
    negative = contrastive.negative_exact_of_set if role == "exact" else contrastive.negative_of_set
    return contrastive.positive_of_set(s_BB, members_B) + negative(s_BB, members_B)


def set_cotangents(
    u_BD: Tensor,
    v_BD: Tensor,
    scale: float,
    members_B: Tensor,
    role: NegativeRole,
    captions_B: Tensor | None = None,
) -> Cotangents:
    """The derivatives of `set_role` in U, V and log s: one cotangent for the whole set.

    Args:
        captions_B: if given, equal captions do not compete (`contrastive.mask_equal`).
    """
    s_BB = contrastive.logits(u_BD, v_BD, scale)
    s_BB = s_BB if captions_B is None else contrastive.mask_equal(s_BB, captions_B)
    with torch.enable_grad():
        leaf_BB = s_BB.detach().requires_grad_()
        (h_BB,) = torch.autograd.grad(set_role(leaf_BB, members_B, role), leaf_BB)
    return through_logits(h_BB, u_BD, v_BD, scale)


def edited(parameters: Mapping[str, Tensor], step: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """theta + step by parameter name, each in the type of the parameter; the sum is taken in the wider one."""
    return {name: (p + step[name].to(p.device)).to(p.dtype) for name, p in parameters.items()}


def predicted_change(gradient: Mapping[str, Tensor], step: Mapping[str, Tensor]) -> float:
    """<grad L, step>: the change of a loss L that a step of the parameters causes, to first order."""
    return sum(float((part.double() * step[name].to(part.device).double()).sum()) for name, part in gradient.items())


def norm(values: Mapping[str, Tensor]) -> float:
    """Euclidean norm over all parameters, in float64."""
    return sum(float(part.double().square().sum()) for part in values.values()) ** 0.5
