"""Versatile influence (arXiv 2412.01335): the derivative along w of L_batch less L_batch without n; lower is worse.

VIF replaces the gradient of one pair's loss, which a coupled loss does not have, by a finite difference: the loss of
the data less the loss without the pair. For the contrastive loss this difference is Pos_n + NegX_n in closed form, so
that no loss is computed B times over. It equals `influence` with the exact negative role, whatever role is chosen.
"""

from torch import Tensor

from ecif import contrastive
from ecif.detectors.views import BatchView


def compute(view: BatchView) -> Tensor:
    """(B,): <w, grad (L_batch - L_batch without n)>."""
    ds_BB = view.changes["influence"].whole_BB
    return contrastive.d_positive(view.s_BB, ds_BB) + contrastive.d_negative_exact(view.s_BB, ds_BB)
