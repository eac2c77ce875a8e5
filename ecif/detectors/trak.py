"""TRAK (arXiv 2303.14186): projected gradients of single samples and their kernel; lower is worse.

    score_n = phi_val^T (Phi^T Phi + lambda I)^-1 phi_n

phi_n is the randomly projected gradient of the pointwise Pos_n (the table of embeddings detached, as in TRAK's own
treatment of CLIP), Phi has those of the fit pairs as rows, phi_val is the mean over the validation pairs of theirs.
TRAK takes gradients of the margin and multiplies by 1 - p afterwards; the gradient of Pos_n has that factor already,
for each of its two softmaxes. TRAK averages over independently trained models; here there is one.

As everything is a product with one vector, that vector is a direction, and no gradient of a scored pair is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ecif.detectors import pointwise
from ecif.detectors.views import BatchView


def direction(features_MK: Tensor, validation_K: Tensor, damping: float) -> Tensor:
    """(Phi^T Phi + lambda I)^-1 phi_val, (K,), in float64; to be lifted to the parameters by the projection.

    Args:
        features_MK: projected pointwise gradients of the fit pairs. validation_K: mean of those of the validation
            pairs. damping: lambda as a multiple of the mean eigenvalue of Phi^T Phi.
    """
    phi_MK = features_MK.double()
    kernel_KK = phi_MK.T @ phi_MK
    damp = damping * float(kernel_KK.diagonal().mean())
    eye_KK = torch.eye(len(kernel_KK), dtype=kernel_KK.dtype, device=kernel_KK.device)
    return torch.linalg.solve(kernel_KK + damp * eye_KK, validation_K.double())


def compute(view: BatchView) -> Tensor:
    """(B,): derivative of the pointwise Pos_n along `direction`."""
    return pointwise.derivative(view, "trak")
