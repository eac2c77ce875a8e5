"""The contrastive loss of one batch, taken apart into the roles that a sample plays in it.

A batch of B pairs with unit-norm embeddings u_BD (images), v_BD (texts) and logit scale s has the logits
S = s U V^T; P is the softmax of its rows (image -> text), Q that of its columns (text -> image), and

    L_batch = sum_i [ -log P_ii - log Q_ii ]                     (a sum: open_clip's loss is L_batch / 2B)

A sample acts in it as a positive pair, and as a negative for every other pair:

    Pos_n   = -log P_nn - log Q_nn
    Neg_n   = sum_{k != n} ( P_kn + Q_nk )                       first order (ECIF, arXiv 2411.11667)
    NegX_n  = sum_{k != n} ( -log(1 - P_kn) - log(1 - Q_nk) )    exact: L(all) - Pos_n - NegX_n = L(without n)

Every function takes the logits s_BB and is differentiable in them; there are no loops over samples. Logits
below float32 are raised to it: probabilities of 1 - 1e-4 and less are what separates samples here.

1 - P_kn loses all its digits where one entry owns its row, and that entry is exactly what a hard negative
looks like. At most one entry of a row exceeds one half, so only the largest entry of each row is treated
apart, by a softmax over the rest of its row; everything else is safe as it stands.

Shape suffixes: B samples of the batch (row = image, column = text), D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A logit whose probability is zero in float64, too, beside any of a cosine times a scale of 100.
NEVER = -1e4


def logits(u_BD: Tensor, v_BD: Tensor, scale: Tensor | float) -> Tensor:
    """S = s U V^T, (B, B), in float32 or better."""
    return scale * (_wide(u_BD) @ _wide(v_BD).T)


def mask_equal(s_BB: Tensor, captions_B: Tensor) -> Tensor:
    """S with pairs of equal captions taken out of each other's softmax; the diagonal stays.

    A text that is right for both images is no negative: corpora of class labels have a handful of captions, and
    web corpora have boilerplate. Such entries get a probability, and with it every derivative, of exactly zero.

    Args:
        captions_B: integers, equal for equal captions.
    """
    same_BB = captions_B.unsqueeze(1) == captions_B
    same_BB = same_BB & ~torch.eye(len(same_BB), dtype=torch.bool, device=same_BB.device)
    # Not -inf: a batch of one caption would leave softmaxes over nothing, and NaN.
    return s_BB.masked_fill(same_BB.to(s_BB.device), NEVER)


def batch_loss(s_BB: Tensor) -> Tensor:
    """L_batch, a scalar: the sum of all `positive` terms."""
    return positive(s_BB).sum()


def positive(s_BB: Tensor) -> Tensor:
    """Pos_n for all n, (B,): the loss of the sample's own row and column."""
    s_BB = _wide(s_BB)
    return torch.logsumexp(s_BB, 1) + torch.logsumexp(s_BB, 0) - 2 * s_BB.diagonal()


def negative(s_BB: Tensor) -> Tensor:
    """Neg_n for all n, (B,): what the sample adds, to first order, to the loss of the others.

    It is the derivative of L_batch when row and column n of the similarities are weighted by zeta, at zeta = 1.
    """
    s_BB = _wide(s_BB)
    return _others(torch.softmax(s_BB, 1)) + _others(torch.softmax(s_BB, 0).T)


def negative_exact(s_BB: Tensor) -> Tensor:
    """NegX_n for all n, (B,): what the loss of the others falls by when the sample leaves the batch."""
    s_BB = _wide(s_BB)
    return _others(_removal_gain(s_BB)) + _others(_removal_gain(s_BB.T))


def positive_of_set(s_BB: Tensor, members_B: Tensor) -> Tensor:
    """Pos(D), a scalar, of the samples at which the Boolean mask `members_B` is true."""
    return positive(s_BB)[members_B].sum()


def negative_of_set(s_BB: Tensor, members_B: Tensor) -> Tensor:
    """Neg(D), a scalar: the first-order negative role of a set. It is not the sum of its members' roles."""
    s_BB = _wide(s_BB)
    p_KN = torch.softmax(s_BB, 1)[~members_B][:, members_B]
    q_KN = torch.softmax(s_BB, 0).T[~members_B][:, members_B]
    return p_KN.sum() + q_KN.sum()


def negative_exact_of_set(s_BB: Tensor, members_B: Tensor) -> Tensor:
    """NegX(D), a scalar: what the loss of the others falls by when the whole set leaves the batch."""
    s_BB = _wide(s_BB)

    def gain(rows_BB: Tensor) -> Tensor:
        rows_KB = rows_BB[~members_B]
        return (torch.logsumexp(rows_KB, 1) - torch.logsumexp(rows_KB[:, ~members_B], 1)).sum()

    return gain(s_BB) + gain(s_BB.T)


def d_positive(s_BB: Tensor, ds_BB: Tensor) -> Tensor:
    """Derivative of `positive` along the change ds_BB of the logits, (B,)."""
    s_BB, ds_BB = _wide(s_BB), _wide(ds_BB)
    rows_B = (torch.softmax(s_BB, 1) * ds_BB).sum(1)
    columns_B = (torch.softmax(s_BB, 0) * ds_BB).sum(0)
    return rows_B + columns_B - 2 * ds_BB.diagonal()


def d_negative(s_BB: Tensor, ds_BB: Tensor) -> Tensor:
    """Derivative of `negative` along ds_BB, (B,)."""
    s_BB, ds_BB = _wide(s_BB), _wide(ds_BB)
    return _others(_d_softmax(s_BB, ds_BB)) + _others(_d_softmax(s_BB.T, ds_BB.T))


def d_negative_exact(s_BB: Tensor, ds_BB: Tensor) -> Tensor:
    """Derivative of `negative_exact` along ds_BB, (B,), right also where one entry owns its row."""
    s_BB, ds_BB = _wide(s_BB), _wide(ds_BB)
    return _others(_d_removal_gain(s_BB, ds_BB)) + _others(_d_removal_gain(s_BB.T, ds_BB.T))


def ggn_logits_product(s_BB: Tensor, ds_BB: Tensor) -> Tensor:
    """M dS, (B, B): the Hessian of L_batch in the logits, applied to a change of the logits.

    M = row-wise (diag P_k - P_k P_k^T) + column-wise (diag Q_k - Q_k Q_k^T), positive semi-definite.
    """
    s_BB, ds_BB = _wide(s_BB), _wide(ds_BB)
    return _d_softmax(s_BB, ds_BB) + _d_softmax(s_BB.T, ds_BB.T).T


def ggn_logits_sqrt(s_BB: Tensor, rows_BB: Tensor, columns_BB: Tensor) -> Tensor:
    """M^(1/2) xi, (B, B), for standard normal xi = (rows_BB, columns_BB): its covariance is M.

    A row's block factors as diag P - P P^T = A A^T with A = diag(sqrt P) - P sqrt(P)^T.
    """
    s_BB = _wide(s_BB)

    def root(s_KB: Tensor, xi_KB: Tensor) -> Tensor:
        log_p_KB = torch.log_softmax(s_KB, 1)
        x_KB = (0.5 * log_p_KB).exp() * xi_KB
        return x_KB - log_p_KB.exp() * x_KB.sum(1, keepdim=True)

    return root(s_BB, rows_BB) + root(s_BB.T, columns_BB.T).T


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _others(x_KN: Tensor) -> Tensor:
    """Sum over k != n of x_KN, (N,)."""
    return x_KN.sum(0) - x_KN.diagonal()


def _d_softmax(s_KB: Tensor, ds_KB: Tensor) -> Tensor:
    """Derivative of the row softmax: P o (dS - sum_j P_kj dS_kj)."""
    p_KB = torch.softmax(s_KB, 1)
    return p_KB * (ds_KB - (p_KB * ds_KB).sum(1, keepdim=True))


def _largest(s_KB: Tensor) -> Tensor:
    """Boolean mask, (K, B), of one largest entry per row."""
    return torch.zeros_like(s_KB, dtype=torch.bool).scatter_(1, s_KB.argmax(1, keepdim=True), True)


def _removal_gain(s_KB: Tensor) -> Tensor:
    """-log(1 - P_kn), (K, B): what row k's loss falls by when n leaves it; 0 for a row of one entry."""
    if s_KB.shape[1] == 1:
        return s_KB * 0
    top_KB = _largest(s_KB.detach())
    whole_K1 = torch.logsumexp(s_KB, 1, keepdim=True)
    rest_K1 = torch.logsumexp(s_KB.masked_fill(top_KB, -torch.inf), 1, keepdim=True)
    # The largest entry is taken out of the other branch before the logarithm, or its gradient would be NaN.
    p_KB = torch.softmax(s_KB, 1).masked_fill(top_KB, 0)
    return torch.where(top_KB, whole_K1 - rest_K1, -torch.log1p(-p_KB))


def _d_removal_gain(s_KB: Tensor, ds_KB: Tensor) -> Tensor:
    """P_kn (dS_kn - m_kn), (K, B), with m_kn the mean of dS_kj under row k's softmax without n."""
    if s_KB.shape[1] == 1:
        return torch.zeros_like(s_KB)
    top_KB = _largest(s_KB)
    p_KB = torch.softmax(s_KB, 1)
    rest_KB = torch.softmax(s_KB.masked_fill(top_KB, -torch.inf), 1)
    mean_K1 = (p_KB * ds_KB).sum(1, keepdim=True)
    safe_KB = p_KB.masked_fill(top_KB, 0)
    m_KB = (mean_K1 - safe_KB * ds_KB) / (1 - safe_KB)
    m_KB = torch.where(top_KB, (rest_KB * ds_KB).sum(1, keepdim=True), m_KB)
    return p_KB * (ds_KB - m_KB)
