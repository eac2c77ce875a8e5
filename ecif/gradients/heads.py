"""Projected per-sample gradients of the last projections in closed form: exact, matrix products only.

With h_m the input of the projection, z_m = W h_m, u_m = z_m / |z_m| and c_nm the cotangent that the role of sample n
sends to u_m (arXiv 2405.13954 for the projection; the coupling through all m is what hooks on a layer miss):

    g_n = sum_m P_out (c_nm - u_m (u_m . c_nm)) (P_in h_m / |z_m|)^T

The B x B cotangents are never formed. G_n is a sum of terms that are diagonal in the weights of sample n (`roles`), so
the sum over m moves past them and g for all n at once is (weights, B x B) times (outer products, B x K).

Cost for B samples, K numbers of one head, D its output width, in multiplications and additions: about
2 B^2 (3 K + B + 3 D) for `negative`, 2 B^2 (5 K + 2 B + 5 D) for the exact roles (two terms) and 2 B^2 (K + 3 D) for
`positive`. Memory: the result, B x K, a few B x B, and one chunk of outer products.

Shape suffixes: I, O the projected sides of the weight; K = I O; the rest as in `roles`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ecif import contrastive
from ecif.gradients.roles import Role, Terms, terms
from ecif.gradients.towers import competing
from ecif.logra import MatrixProjection

CHUNK = 256  # outer products held at once


@dataclass(frozen=True, slots=True)
class Head:
    """The last projection of one tower.

    Attributes:
        weight: z = h W for a bare parameter, (n_in, n_out); z = h W^T for a linear layer, (n_out, n_in).
        is_linear: which of the two. projection: of that weight.
        bias: (n_out,), added to z; None where there is none. bias_projection: of the bias, where it is trainable.
    """

    weight: Tensor
    is_linear: bool
    projection: MatrixProjection
    bias: Tensor | None = None
    bias_projection: MatrixProjection | None = None

    def embed(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (B, n_in) -> |z|, (B, 1), and u_BD."""
        z_BD = h @ (self.weight.T if self.is_linear else self.weight)
        z_BD = z_BD if self.bias is None else z_BD + self.bias
        norm_B1 = z_BD.norm(dim=1, keepdim=True)
        return norm_B1, z_BD / norm_B1

    def sides(self) -> tuple[Tensor | None, Tensor | None]:
        """P_in and P_out of the weight."""
        p = self.projection
        return (p.right, p.left) if self.is_linear else (p.left, p.right)


def head_gradients(
    h_image: Tensor,
    h_text: Tensor,
    image: Head,
    text: Head,
    scale: float,
    role: Role,
    captions_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Projected gradients of the role of every sample with respect to the two heads, (B, K_image) and (B, K_text).

    Args:
        h_image, h_text: inputs of the heads, (B, n_in). scale: the logit scale s.
        captions_B: if given, equal captions do not compete (`contrastive.mask_equal`).

    Returns:
        For each head the numbers of its weight, then those of its bias if that is trainable.
    """
    norm_i, u_BD = image.embed(h_image)
    norm_t, v_BD = text.embed(h_text)
    found = terms(competing(contrastive.logits(u_BD, v_BD, scale), captions_B), role)
    flipped = tuple(term.transposed() for term in found)
    diagonal = role == "positive"
    return (
        _one_side(h_image, norm_i, u_BD, v_BD, found, scale, image, diagonal),
        _one_side(h_text, norm_t, v_BD, u_BD, flipped, scale, text, diagonal),
    )


def _one_side(
    h: Tensor, norm_B1: Tensor, u_BD: Tensor, v_BD: Tensor, found: Terms, scale: float, head: Head, diagonal: bool
) -> Tensor:
    """Gradients for the tower of u."""
    p_in, p_out = head.sides()
    x_BI = (h if p_in is None else h @ p_in.T) / norm_B1
    g_BOI = _gradients(x_BI, u_BD, v_BD, p_out, found, diagonal).unflatten(1, (-1, x_BI.shape[1]))
    parts = [(g_BOI if head.is_linear else g_BOI.transpose(1, 2)).flatten(1)]
    if head.bias_projection is not None:
        parts.append(_gradients(1 / norm_B1, u_BD, v_BD, head.bias_projection.left, found, diagonal))
    return scale * torch.cat(parts, 1)


def _gradients(x_BI: Tensor, u_BD: Tensor, v_BD: Tensor, p_out: Tensor | None, found: Terms, diagonal: bool) -> Tensor:
    """sum_m P_out (c_nm - u_m (u_m . c_nm)) x_m^T for all n, (B, O I), with c the cotangents for a scale of 1.

    Args:
        x_BI: inputs over |z|. diagonal: all weights of the terms are -I, so that no product with them is needed.
    """

    def out(y_BD: Tensor) -> Tensor:
        return y_BD if p_out is None else y_BD @ p_out.T

    def times(weights_NB: Tensor, y_BX: Tensor) -> Tensor:
        return -y_BX if diagonal else weights_NB @ y_BX

    u_BO, v_BO = out(u_BD), out(v_BD)
    cosine_BB = u_BD @ v_BD.T
    g_NK = x_BI.new_zeros(len(x_BI), u_BO.shape[1] * x_BI.shape[1])
    radial_NB = torch.zeros_like(cosine_BB)
    for term in found:
        a_NB, p_BB, b_NB, q_BB = (part.to(x_BI) for part in (term.a_NB, term.p_BB, term.b_NB, term.q_BB))
        mean_BD, own_ND = p_BB @ v_BD, times(b_NB, v_BD)
        g_NK += _outer(v_BO, times(a_NB, x_BI))
        g_NK += _outer(out(own_ND), x_BI)
        if diagonal:
            g_NK += _outer(out(mean_BD), x_BI)
            g_NK += _outer(v_BO, q_BB.T @ x_BI)
        else:
            _subtract(g_NK, a_NB, out(mean_BD), x_BI)
            _subtract(g_NK, b_NB, v_BO, q_BB.T @ x_BI)
        radial_NB += a_NB * (cosine_BB.T - (p_BB * cosine_BB).sum(1))
        radial_NB += torch.diag((own_ND * u_BD).sum(1)) - times(b_NB, (q_BB * cosine_BB).T)
    _subtract(g_NK, radial_NB, u_BO, x_BI)
    return g_NK


def _subtract(total_NK: Tensor, weights_NB: Tensor, left_BO: Tensor, right_BI: Tensor) -> None:
    """total_n -= sum_m weights_nm left_m right_m^T, in place, by chunks of m."""
    for start in range(0, len(left_BO), CHUNK):
        m = slice(start, start + CHUNK)
        total_NK.addmm_(weights_NB[:, m], _outer(left_BO[m], right_BI[m]), alpha=-1)


def _outer(a_BO: Tensor, b_BI: Tensor) -> Tensor:
    return (a_BO.unsqueeze(2) * b_BI.unsqueeze(1)).flatten(1)
