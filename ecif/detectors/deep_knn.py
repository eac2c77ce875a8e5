"""Mean similarity of the caption with the captions of the most similar images; lower is worse.

Deep k-NN for noisy labels (arXiv 2004.12289), with similarity of captions in the place of equality of labels.
"""

from __future__ import annotations

from torch import Tensor

from ecif.detectors.neighbours import nearest
from ecif.detectors.views import ShardView

K = 30


def compute(view: ShardView) -> Tensor:
    """(N,): mean over the K nearest images of v_n . v_j; NaN where there is no other pair."""
    u_MD, v_MD = view.reference or (view.u_ND, view.v_ND)
    rows_NK = nearest(view.u_ND, u_MD, K, exclude_self=view.reference is None)
    # A sum over neighbours first, so that (N, K, D) never exists; without neighbours it is 0 / 0.
    return (view.v_ND * _sums(v_MD, rows_NK)).sum(1) / rows_NK.shape[1]


def _sums(v_MD: Tensor, rows_NK: Tensor) -> Tensor:
    total_ND = v_MD.new_zeros(len(rows_NK), v_MD.shape[1])
    for rows_N in rows_NK.T:
        total_ND += v_MD[rows_N]
    return total_ND
