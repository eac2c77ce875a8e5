"""LEMoN (arXiv 2407.18941): the pair's own distance, and those to the other halves of its neighbours; higher is worse.

    score_n = d(u_n, v_n) + beta s_n + gamma s_m
    s_n = 1/k sum over the k nearest images j of    d(v_n, v_j) exp(-t1 d(u_n, u_j)) exp(-t2 d(u_j, v_j))
    s_m = 1/k sum over the k nearest captions j of  d(u_n, u_j) exp(-t1 d(v_n, v_j)) exp(-t2 d(u_j, v_j))

with d = 1 - cosine. A neighbour counts for less the farther it is (t1) and the less its own halves agree (t2). The
paper tunes the five numbers on labelled mistakes; these are its fixed ones, for use without any.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ecif.detectors.neighbours import nearest
from ecif.detectors.views import ShardView

K = 30
BETA = GAMMA = 5.0
T1, T2 = 0.1, 5.0


def compute(view: ShardView) -> Tensor:
    """(N,): neighbours among the reference pairs, or among the other pairs of the shard."""
    u_MD, v_MD = view.reference or (view.u_ND, view.v_ND)
    alone = view.reference is None
    own_N = 1 - (view.u_ND * view.v_ND).sum(1)
    return (
        own_N
        + BETA * _term(view.u_ND, view.v_ND, u_MD, v_MD, alone)
        + GAMMA * _term(view.v_ND, view.u_ND, v_MD, u_MD, alone)
    )


def _term(near_ND: Tensor, other_ND: Tensor, near_MD: Tensor, other_MD: Tensor, alone: bool) -> Tensor:
    """s_n for neighbours in `near`, compared in `other`; 0 without neighbours."""
    rows_NK = nearest(near_ND, near_MD, K, exclude_self=alone)
    trust_M = torch.exp(-T2 * (1 - (near_MD * other_MD).sum(1)))
    total_N = torch.zeros_like(near_ND[:, 0])
    for rows_N in rows_NK.T:
        closeness_N = torch.exp(-T1 * (1 - (near_ND * near_MD[rows_N]).sum(1)))
        total_N += (1 - (other_ND * other_MD[rows_N]).sum(1)) * closeness_N * trust_M[rows_N]
    return total_N / max(rows_NK.shape[1], 1)
