"""How each role of a sample depends on the logits of its batch: G_n = dF_n / dS, for all n, in closed form.

All roles of `contrastive` have one shape. A row k of the batch acts through its softmax p_k, and the derivative of
what sample n is to that row is proportional to (e_n - p_k); likewise for the columns. So

    G_n = sum over terms of  diag(a_n) (1 e_n^T - p)  +  (e_n 1^T - q) diag(b_n)

with weights a_nk, b_nk that say how much n matters to row and column k:

    Pos_n    a = b = -I                                         (only its own row and column)
    Neg_n    a_nk = P_kn,  b_nk = Q_nk                          for k != n
    NegX_n   a_nk = P_kn / (1 - P_kn),  b_nk = Q_nk / (1 - Q_nk)

The last quotient loses its digits where one entry owns its row, and in float32 becomes 1 / 0. Only the largest
entry of a row can: there the derivative is P_kn (e_n - r_k) with r_k the softmax over the rest of the row, taken in
log space. These entries form a second term with r in the place of p.

What stands in front of this: dU = s G_n V and dV = s G_n^T U reach every embedding of the batch (`cotangents`).

Shape suffixes as in `contrastive`; N = B samples whose role is meant, M some of them, J some members of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

# removal = positive + negative_exact: what the loss of the batch falls by when the sample leaves.
Role = Literal["positive", "negative", "negative_exact", "removal"]
Terms = tuple["Term", ...]


@dataclass(frozen=True, slots=True)
class Term:
    """diag(a_n) (1 e_n^T - p) + (e_n 1^T - q) diag(b_n) for all n.

    Attributes:
        a_NB, b_NB: weights of the rows and columns. p_BB: rows sum to one. q_BB: columns sum to one.
    """

    a_NB: Tensor
    p_BB: Tensor
    b_NB: Tensor
    q_BB: Tensor

    def transposed(self) -> Term:
        """The term of the transposed logits: image and text exchanged."""
        return Term(self.b_NB, self.q_BB.T, self.a_NB, self.p_BB.T)


def terms(s_BB: Tensor, role: Role) -> Terms:
    """The terms of `role` at the logits s_BB (float32 or better)."""
    p_BB, q_BB = torch.softmax(s_BB, 1), torch.softmax(s_BB, 0)
    eye_BB = torch.eye(len(s_BB), dtype=s_BB.dtype, device=s_BB.device)
    if role == "positive":
        return (Term(-eye_BB, p_BB, -eye_BB, q_BB),)
    if role == "negative":
        return (Term(p_BB.T - p_BB.T * eye_BB, p_BB, q_BB - q_BB * eye_BB, q_BB),)
    own_BB = eye_BB if role == "removal" else torch.zeros_like(eye_BB)
    a_NB, a_owner_NB, rest_BB = _exact(s_BB, p_BB)
    b_NB, b_owner_NB, rest_columns_BB = _exact(s_BB.T, q_BB.T)
    return (
        Term(a_NB - own_BB, p_BB, b_NB - own_BB, q_BB),
        Term(a_owner_NB, rest_BB, b_owner_NB, rest_columns_BB.T),
    )


def _exact(s_KB: Tensor, p_KB: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (n, k) of -log(1 - p_kn) for k != n: of ordinary entries, of each row's largest; its rest's softmax."""
    if len(s_KB) == 1:
        return torch.zeros_like(s_KB), torch.zeros_like(s_KB), p_KB
    top_KB = torch.zeros_like(s_KB, dtype=torch.bool).scatter_(1, s_KB.argmax(1, keepdim=True), True)
    rest_KB = torch.softmax(s_KB.masked_fill(top_KB, -torch.inf), 1)
    small_KB = p_KB.masked_fill(top_KB, 0)
    ordinary_KB = small_KB / (1 - small_KB)
    owner_KB = p_KB.masked_fill(~top_KB, 0)
    return ordinary_KB.fill_diagonal_(0).T, owner_KB.fill_diagonal_(0).T, rest_KB


def logit_gradients(s_BB: Tensor, role: Role, rows_M: Tensor) -> Tensor:
    """dF_n / dS for the samples n in rows_M, (M, B, B)."""
    return sum((_dense(term, rows_M) for term in terms(s_BB, role)), s_BB.new_zeros(()))


def _dense(term: Term, rows_M: Tensor) -> Tensor:
    a_MB, b_MB = term.a_NB[rows_M], term.b_NB[rows_M]
    g_MBB = -(a_MB.unsqueeze(2) * term.p_BB + term.q_BB * b_MB.unsqueeze(1))
    each = torch.arange(len(rows_M), device=rows_M.device)
    g_MBB[each, :, rows_M] += a_MB
    g_MBB[each, rows_M, :] += b_MB
    return g_MBB


def directional(found: Terms, ds_BB: Tensor) -> Tensor:
    """<G_n, dS> for all n, (B,): the derivative of the role along the change ds_BB of the logits."""
    total_N = torch.zeros_like(ds_BB[0])
    for term in found:
        rows_B, columns_B = (term.p_BB * ds_BB).sum(1), (term.q_BB * ds_BB).sum(0)
        total_N += (term.a_NB * ds_BB.T).sum(1) - term.a_NB @ rows_B
        total_N += (term.b_NB * ds_BB).sum(1) - term.b_NB @ columns_B
    return total_N


def cotangents(found: Terms, v_BD: Tensor, scale: float, rows_M: Tensor, members_J: Tensor) -> Tensor:
    """Rows of s G_n V, (M, J, D): what the roles of samples rows_M send to the embeddings of members_J.

    For the other tower give the transposed terms and U. About 2 M J B D multiplications for each term.
    """
    own_MJ = (rows_M.unsqueeze(1) == members_J).to(v_BD)
    total_MJD = v_BD.new_zeros(len(rows_M), len(members_J), v_BD.shape[1])
    for term in found:
        a_MB, b_MB = term.a_NB[rows_M].to(v_BD), term.b_NB[rows_M].to(v_BD)
        a_MJ1 = a_MB[:, members_J].unsqueeze(2)
        p_JB, q_JB = term.p_BB[members_J].to(v_BD), term.q_BB[members_J].to(v_BD)
        total_MJD += a_MJ1 * (v_BD[rows_M].unsqueeze(1) - p_JB @ v_BD)
        total_MJD += own_MJ.unsqueeze(2) * (b_MB @ v_BD).unsqueeze(1)
        total_MJD -= (b_MB.unsqueeze(1) * q_JB) @ v_BD
    return scale * total_MJD
