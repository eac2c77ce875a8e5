"""Scores of the canaries of one batch in closed form: each alone in the place of its host, O(B D) for each.

A canary puts v' in the place of v_n. Of the logits S only column n changes, to c' = s U v'; of their derivative along
w only column n of dS, to dc' = s (dU v' + U dv') + ds U v'. Where equal captions are masked, it also leaves the softmax
of the pairs with its new caption and enters that of the pairs with its old one: in column n, and in row n.

Everything that the roles of n need of the rest of the batch is each row k without n: the log-sum-exp L_kn of its other
entries, and m_kn, the mean of its other dS_kj under their softmax. Neither depends on the canary. With its logit c'_k
the probability of n in row k is P'_kn = sigmoid(c'_k - L_kn), and

    <w, grad of its role in row k>  =  P'_kn (dc'_k - m_kn)                    exact
                                    =  P'_kn (1 - P'_kn) (dc'_k - m_kn)        first order

The same holds for columns, with row n in the place of column n. L and m are taken as `contrastive` takes them: at most
one entry of a row exceeds one half, and only rows whose largest entry is a host's need a softmax over the rest.

Shape suffixes as in `contrastive`, C canaries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ecif import contrastive
from ecif.influence import BatchTerms, Embedded, NegativeRole


@dataclass(frozen=True, slots=True)
class Captions:
    """The captions of C canaries, embedded, and whose they would be in one batch.

    Attributes:
        hosts_C: positions in the batch; none stands twice. v_CD, dv_RCD: unit-norm embeddings and their derivatives.
        captions_C: integers, equal for equal captions, also those of the batch.
    """

    hosts_C: Tensor
    v_CD: Tensor
    dv_RCD: Tensor
    captions_C: Tensor


@dataclass(frozen=True, slots=True)
class Planted:
    """What each canary of a batch, were it alone, puts into the logits and their derivative.

    Attributes:
        hosts_C: as in `Captions`. columns_CB, dcolumns_CB: column n of S and of dS. rows_CB, drows_CB: row n of both.
    """

    hosts_C: Tensor
    columns_CB: Tensor
    dcolumns_CB: Tensor
    rows_CB: Tensor
    drows_CB: Tensor

    @classmethod
    def of(cls, batch: Embedded, terms: BatchTerms, captions: Captions) -> Planted:
        """The captions in the batch whose `terms` are given, along the first of its directions."""
        hosts_C, v_CD, dscale = captions.hosts_C, captions.v_CD, batch.dscale_R[0]
        dcolumns_CB = contrastive.logits(v_CD, batch.du_RBD[0], batch.scale)
        dcolumns_CB += contrastive.logits(captions.dv_RCD[0], batch.u_BD, batch.scale)
        if dscale:
            dcolumns_CB += contrastive.logits(v_CD, batch.u_BD, dscale)
        own_C1 = hosts_C.unsqueeze(1)
        drows_CB = terms.ds_BB[hosts_C].scatter_(1, own_C1, dcolumns_CB.gather(1, own_C1))
        columns_CB, rows_CB = logits(batch, terms.s_BB, captions)
        return cls(hosts_C, columns_CB, dcolumns_CB, rows_CB, drows_CB)


def logits(batch: Embedded, s_BB: Tensor, captions: Captions) -> tuple[Tensor, Tensor]:
    """Column n and row n of the logits as each canary makes them, masked like the batch, whose logits are s_BB."""
    hosts_C, own_C1 = captions.hosts_C, captions.hosts_C.unsqueeze(1)
    columns_CB = contrastive.logits(captions.v_CD, batch.u_BD, batch.scale)
    masked = batch.captions_B is not None
    rows_CB = contrastive.logits(batch.u_BD[hosts_C], batch.v_BD, batch.scale) if masked else s_BB[hosts_C]
    rows_CB = rows_CB.scatter(1, own_C1, columns_CB.gather(1, own_C1))
    if batch.captions_B is None:
        return columns_CB, rows_CB
    same_CB = (captions.captions_C.unsqueeze(1) == batch.captions_B).scatter_(1, own_C1, False)
    return columns_CB.masked_fill_(same_CB, contrastive.NEVER), rows_CB.masked_fill_(same_CB, contrastive.NEVER)


def always(terms: BatchTerms, planted: Planted) -> dict[str, Tensor]:
    """The columns that every score file has, (C,) each, without `influence`, which is the sum of two of them.

    Args:
        terms: of the batch as it is.
    """
    own_C1 = planted.hosts_C.unsqueeze(1)
    own_C, down_C = (x_CB.gather(1, own_C1).squeeze(1) for x_CB in (planted.columns_CB, planted.dcolumns_CB))
    rows_CB, columns_CB = planted.rows_CB, planted.columns_CB
    positive_C = torch.logsumexp(rows_CB, 1) + torch.logsumexp(columns_CB, 1) - 2 * own_C
    d_positive_C = (torch.softmax(rows_CB, 1) * planted.drows_CB).sum(1) - 2 * down_C
    d_positive_C += (torch.softmax(columns_CB, 1) * planted.dcolumns_CB).sum(1)
    negative_C = _negative(
        terms.s_BB, terms.ds_BB, planted.hosts_C, columns_CB, planted.dcolumns_CB, terms.negative_role
    )
    negative_C += _negative(
        terms.s_BB.T, terms.ds_BB.T, planted.hosts_C, rows_CB, planted.drows_CB, terms.negative_role
    )
    return {
        "clip_score": own_C / terms.scale,
        "neg_clip_loss": -positive_C / (2 * terms.scale),
        "positive_influence": d_positive_C,
        "negative_influence": negative_C,
    }


def _negative(
    s_KB: Tensor, ds_KB: Tensor, hosts_C: Tensor, new_CK: Tensor, dnew_CK: Tensor, role: NegativeRole
) -> Tensor:
    """The negative role of every canary in the rows k != n, (C,), with new_CK and dnew_CK in the place of column n."""
    # To find the rows that need it is to wait for a device, which would rather take the softmax of all.
    rest_KC, mean_KC = _without(s_KB, ds_KB, hosts_C, all_rows=s_KB.device.type != "cpu")
    odds_KC = new_CK.T - rest_KC
    slope_KC = torch.sigmoid(odds_KC) * (dnew_CK.T - mean_KC)
    if role == "first-order":
        slope_KC = slope_KC * torch.sigmoid(-odds_KC)
    # Its own row is no other's: what stands there, NaN in a batch of one, is set to zero.
    return slope_KC.scatter(0, hosts_C.unsqueeze(0), 0).sum(0)


def _without(s_KB: Tensor, ds_KB: Tensor, hosts_C: Tensor, *, all_rows: bool) -> tuple[Tensor, Tensor]:
    """L_kn and m_kn of every row k and every host n, (K, C) each; without meaning where k = n."""
    largest_K1, top_K1 = s_KB.max(1, keepdim=True)
    weight_KB = (s_KB - largest_K1).exp_()
    whole_K1 = weight_KB.sum(1, keepdim=True)
    mean_K1 = (weight_KB * ds_KB).sum(1, keepdim=True) / whole_K1
    owned_KC = top_K1 == hosts_C
    p_KC = (weight_KB[:, hosts_C] / whole_K1).masked_fill_(owned_KC, 0)
    rest_KC = largest_K1 + whole_K1.log() + torch.log1p(-p_KC)
    mean_KC = (mean_K1 - p_KC * ds_KB[:, hosts_C]) / (1 - p_KC)
    rows: Tensor | slice = slice(None)
    if not all_rows:
        # Those in which a host is the hardest negative; in its own row it is the positive, and no other's.
        numbers_K1 = torch.arange(len(s_KB), device=s_KB.device).unsqueeze(1)
        rows = (owned_KC & (numbers_K1 != hosts_C)).any(1).nonzero().squeeze(1)
    left_RB = s_KB[rows].scatter(1, top_K1[rows], -torch.inf)
    owned_RC = owned_KC[rows]
    rest_KC[rows] = torch.where(owned_RC, torch.logsumexp(left_RB, 1, keepdim=True), rest_KC[rows])
    left_R1 = (torch.softmax(left_RB, 1) * ds_KB[rows]).sum(1, keepdim=True)
    mean_KC[rows] = torch.where(owned_RC, left_R1, mean_KC[rows])
    return rest_KC, mean_KC
