"""What detectors see: of one batch of the loss, and of one shard.

Whoever scores fills in what the wanted columns need (`Facts.needs`) and leaves the rest empty. Shape suffixes: B pairs
of the batch, N pairs of the shard, M pairs of a reference set, D embedding width, K projected numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ecif import contrastive
from ecif.curvature import Curvature
from ecif.influence import BatchTerms, Embedded, NegativeRole
from ecif.relative import Columns, SquaredNorms


@dataclass(frozen=True, slots=True)
class Change:
    """Derivative of the logits along one direction, apart by what moves; all (B, B).

    Attributes:
        image_BB: s dU V^T, the image embeddings alone. text_BB: s U dV^T, those of the captions.
        scale_BB: ds U V^T, the logit scale; 0 unless it is trained. whole_BB: dS, their sum.
    """

    image_BB: Tensor
    text_BB: Tensor
    scale_BB: Tensor | float
    whole_BB: Tensor

    @classmethod
    def of(cls, batch: Embedded, direction: int) -> Change:
        """The change along direction number `direction` of the batch."""
        u_BD, v_BD, dscale = batch.u_BD, batch.v_BD, batch.dscale_R[direction]
        image_BB = contrastive.logits(batch.du_RBD[direction], v_BD, batch.scale)
        text_BB = contrastive.logits(u_BD, batch.dv_RBD[direction], batch.scale)
        scale_BB = contrastive.logits(u_BD, v_BD, dscale) if dscale else 0.0
        return cls(image_BB, text_BB, scale_BB, image_BB + text_BB + scale_BB)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The same batch under another model of a training run: its logits s_BB and its scale."""

    s_BB: Tensor
    scale: float


@dataclass(frozen=True, slots=True)
class BatchView:
    """One batch.

    Attributes:
        s_BB: logits. scale: their s. negative_role: which negative role the columns of influence use.
        captions_B: int64; pairs with equal captions have equal numbers.
        changes: by the name of the direction: "influence" (w = H^-1 grad L_val), "gradient" (grad L_val), "ekfac",
            "trak".
        stepped_BB: logits at the weights after one step down the validation loss.
        gradients: projected per-sample gradients by role, (B, K) each. curvature: of the same projection.
        validation_VK: H^-1 g_j, g_j the projected gradient of Pos_j / 2 of each validation pair in its batch.
        checkpoints: of a training run, the scored model not among them unless it is one of the run.
    """

    s_BB: Tensor
    scale: float
    negative_role: NegativeRole
    captions_B: Tensor
    changes: Mapping[str, Change] = field(default_factory=dict)
    stepped_BB: Tensor | None = None
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    curvature: Curvature | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    validation_VK: Tensor | None = None

    def terms(self, direction: str) -> BatchTerms:
        """What both roles are differentiated from along the named direction."""
        return BatchTerms(self.s_BB, self.changes[direction].whole_BB, self.scale, self.negative_role)


@dataclass(frozen=True, slots=True)
class RelativeView:
    """Influence of the pairs of a shard, and lengths of what their gradients do; what was not wanted is None.

    Attributes:
        positive_N, negative_N: influence by role. norm: length of the validation gradient.
        columns: inner products of H^-1 grad Pos and H^-1 grad Neg. own: d^T H^-1 d. squares: |d|^2.
    """

    positive_N: Tensor
    negative_N: Tensor
    norm: float
    columns: Columns | None = None
    own: SquaredNorms | None = None
    squares: SquaredNorms | None = None


@dataclass(frozen=True, slots=True)
class ShardView:
    """One shard.

    Attributes:
        u_ND, v_ND: unit-norm embeddings. seed: of what is drawn at random.
        reference: (u_MD, v_MD) of trusted pairs among which neighbours are sought; None: among the other pairs of
            the shard.
        gradients: projected per-sample gradients by role, means over the segmentations, (N, K) each.
    """

    u_ND: Tensor
    v_ND: Tensor
    seed: int = 0
    reference: tuple[Tensor, Tensor] | None = None
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
