"""Influence as for a loss of single samples, with EK-FAC curvature; lower is worse (arXiv 2308.03296).

grad L_val^T H^-1 grad Pos_n with H the eigenvalue-corrected Kronecker factors of the fit and Pos_n the pair's own
term, all other embeddings of the batch constant (`pointwise`). There is no negative role. This is what the method
amounts to when a library for pointwise losses is handed a contrastive one.
"""

from torch import Tensor

from ecif.detectors import pointwise
from ecif.detectors.views import BatchView


def compute(view: BatchView) -> Tensor:
    """(B,): derivative of the pointwise Pos_n along H_ekfac^-1 grad L_val."""
    return pointwise.derivative(view, "ekfac")
