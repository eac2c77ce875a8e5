"""Influence scores of all pairs of a batch, from one forward-mode derivative of the embeddings.

With w = H^-1 grad L_val, the predicted change of the validation loss when pair n is removed is

    IS_n = <w, grad Pos_n> + <w, grad Neg_n>            (positive role + negative role)

and both terms are derivatives along the one direction w: one JVP of the towers gives dU, dV, hence dS, and
with it the scores of the whole batch, the coupling with every other sample included. IS < 0: the loss falls
without the pair; it is harmful. Other losses (of single test pairs, of other validation sets) are other
directions w, and share the forward pass.

Shape suffixes as in `contrastive`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ecif import contrastive

NegativeRole = Literal["exact", "first-order"]


@dataclass(frozen=True, slots=True)
class Embedded:
    """Embeddings of samples and their derivatives along R directions.

    Attributes:
        u_BD: unit-norm image embeddings. v_BD: unit-norm text embeddings.
        du_RBD, dv_RBD: their derivatives along each direction.
        scale: logit scale s. dscale_R: its derivatives (0 unless the scale is trainable).
        captions_B: if given, integers by which equal captions do not compete (`contrastive.mask_equal`).
    """

    u_BD: Tensor
    v_BD: Tensor
    du_RBD: Tensor
    dv_RBD: Tensor
    scale: float
    dscale_R: tuple[float, ...]
    captions_B: Tensor | None = None

    def take(self, rows: Tensor) -> Embedded:
        """The samples at `rows`, as a batch."""
        return Embedded(
            self.u_BD[rows],
            self.v_BD[rows],
            self.du_RBD[:, rows],
            self.dv_RBD[:, rows],
            self.scale,
            self.dscale_R,
            None if self.captions_B is None else self.captions_B[rows],
        )

    @property
    def logits(self) -> Tensor:
        """S of the samples as one batch, (B, B)."""
        s_BB = contrastive.logits(self.u_BD, self.v_BD, self.scale)
        return s_BB if self.captions_B is None else contrastive.mask_equal(s_BB, self.captions_B)


@dataclass(frozen=True, slots=True)
class BatchTerms:
    """What detectors see of one batch: logits s_BB, their derivative ds_BB along w, and the scale."""

    s_BB: Tensor
    ds_BB: Tensor
    scale: float
    negative_role: NegativeRole

    @classmethod
    def of(cls, batch: Embedded, negative_role: NegativeRole, direction: int = 0) -> BatchTerms:
        """The terms along one of the directions of `batch`."""
        return cls(batch.logits, directional_logits(batch, direction), batch.scale, negative_role)


def directional_logits(batch: Embedded, direction: int = 0) -> Tensor:
    """dS = s (dU V^T + U dV^T) + ds U V^T along one of the directions of `batch`, (B, B)."""
    ds_BB = contrastive.logits(batch.du_RBD[direction], batch.v_BD, batch.scale)
    ds_BB += contrastive.logits(batch.u_BD, batch.dv_RBD[direction], batch.scale)
    if batch.dscale_R[direction]:
        ds_BB += contrastive.logits(batch.u_BD, batch.v_BD, batch.dscale_R[direction])
    return ds_BB


def positive_influence(terms: BatchTerms) -> Tensor:
    """<w, grad Pos_n>, (B,): predicted change of the validation loss by losing the pair as a positive."""
    return contrastive.d_positive(terms.s_BB, terms.ds_BB)


def negative_influence(terms: BatchTerms) -> Tensor:
    """<w, grad of the negative role>, (B,): the same by losing it as a negative of the others."""
    if terms.negative_role == "exact":
        return contrastive.d_negative_exact(terms.s_BB, terms.ds_BB)
    return contrastive.d_negative(terms.s_BB, terms.ds_BB)


def finite_rows(batch: Embedded) -> Tensor:
    """Boolean, (B,): samples whose embeddings and derivatives are all finite.

    One bad sample would turn its whole batch into NaN, so it is taken out before batches are formed.
    """
    rows = torch.ones(batch.u_BD.shape[0], dtype=torch.bool, device=batch.u_BD.device)
    for x_BD in (batch.u_BD, batch.v_BD, *batch.du_RBD, *batch.dv_RBD):
        rows &= torch.isfinite(x_BD).all(1)
    return rows
