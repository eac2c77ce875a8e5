"""Pos_n as a loss of its own pair: the other embeddings of the batch are constants.

Methods made for losses of single samples (EK-FAC influence, TRAK) need a gradient per sample. They get one if the
table of embeddings, against which the pair is compared, is detached: only u_n and v_n depend on the parameters. What
is lost is the coupling: that a change of the parameters also moves the pair's competitors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ecif.detectors.views import BatchView


def derivative(view: BatchView, direction: str) -> Tensor:
    """Derivative of every Pos_n along the named direction, (B,), where only its own u_n, v_n and the scale move.

    Row n of the logits moves with u_n, column n with v_n, and the entry nn with both.
    """
    change = view.changes[direction]
    p_BB, q_BB = torch.softmax(view.s_BB, 1), torch.softmax(view.s_BB, 0)
    rows_B = (p_BB * (change.image_BB + change.scale_BB)).sum(1) + p_BB.diagonal() * change.text_BB.diagonal()
    columns_B = (q_BB * (change.text_BB + change.scale_BB)).sum(0) + q_BB.diagonal() * change.image_BB.diagonal()
    return rows_B + columns_B - 2 * change.whole_BB.diagonal()


def cotangents(u_BD: Tensor, v_BD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Gradient of every Pos_n with respect to its own u_n and its own v_n, (B, D) each, the others detached.

    A vector-Jacobian product of the towers for each pair alone turns them into the gradients of its parameters.
    """
    s_BB = scale * u_BD @ v_BD.T
    p_BB, q_BB = torch.softmax(s_BB, 1), torch.softmax(s_BB, 0)
    own_p_B1, own_q_B1 = p_BB.diagonal().unsqueeze(1), q_BB.diagonal().unsqueeze(1)
    return scale * (p_BB @ v_BD + (own_q_B1 - 2) * v_BD), scale * (q_BB.T @ u_BD + (own_p_B1 - 2) * u_BD)
