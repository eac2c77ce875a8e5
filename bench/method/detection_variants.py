"""Variants of influence as a detector of wrong pairs: what else can be read from the same gradients.

IS_nj = d_n^T H^-1 g_j is the influence of pair n on validation pair j: an N x V matrix product of projected gradients.
Plain influence is its mean over j. A variant is another function of it, of other gradients, or of another H.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from bench.method.detection_heads import Heads
from ecif.gradients import Role

NEIGHBOURS, CLUSTERS = 30, 32


class Variants:
    """Badness (higher is worse) of every pair, (N,), by the name of the variant."""

    def __init__(self, heads: Heads) -> None:
        self.heads = heads
        self.runs = [Heads(heads.found, run) for run in heads.found.runs]
        self.pca = Heads(heads.found, heads.found.model, "pca")
        self.masked = Heads(heads.found, heads.found.model, masked=True)
        corpus, _ = heads.found.numbers()
        # Where hardly a caption occurs twice, masking equal ones changes nothing.
        self.repeated = len(corpus.unique()) < 0.9 * len(corpus)

    @cached_property
    def table(self) -> dict[str, Callable[[], Tensor]]:
        """All variants, in the order of the report."""
        h = self.heads
        found: dict[str, Callable[[], Tensor]] = {
            "influence: mean over validation pairs, GGN 10x": lambda: mean(h),
            "H = I": lambda: mean(h, kind="identity"),
            "GGN 0.1x": lambda: mean(h, damping=0.1),
            "GGN 1x": lambda: mean(h, damping=1),
            "GGN 100x": lambda: mean(h, damping=100),
            "Fisher 10x": lambda: mean(h, kind="fisher"),
            "PCA projection": lambda: mean(self.pca),
            "positive role only": lambda: mean(h, role="positive"),
            "5 leading directions of the corpus gradients out": lambda: _projected_out(h, h.gradients("removal"), 5),
            "5 leading directions of the validation gradients out": lambda: _projected_out(
                h, h.validation_gradients, 5
            ),
            "divided by the length of H^-1 d (theta-relative)": lambda: (
                mean(h) / h.factor().solve(h.gradients("removal")).norm(dim=1)
            ),
            "divided by sqrt(d^T H^-1 d) (l-relative)": lambda: mean(h) / self_influence(h).sqrt(),
            f"validation pairs matched by image ({NEIGHBOURS})": lambda: _matched(h, images=True, captions=False),
            f"validation pairs matched by caption ({NEIGHBOURS})": lambda: _matched(h, images=False, captions=True),
            f"validation pairs matched by both ({NEIGHBOURS})": lambda: _matched(h, images=True, captions=True),
            f"least over {CLUSTERS} clusters of validation images": lambda: _clusters(h),
            "single validation pairs: 10 % quantile": lambda: -single(h).quantile(0.1, dim=1),
            "single validation pairs: mean of negative parts (harm)": lambda: harm(h),
            "harm, positive role": lambda: harm(h, role="positive"),
            "harm, H = I": lambda: harm(h, kind="identity"),
            "harm, GGN 1x": lambda: harm(h, damping=1),
            "harm, GGN 100x": lambda: harm(h, damping=100),
            "harm, Fisher 10x": lambda: harm(h, kind="fisher"),
            "harm, PCA projection": lambda: harm(self.pca),
            "single validation pairs: mean of absolute values": lambda: single(h).abs().mean(1),
            "harm less half of the benefit": lambda: harm(h) - single(h).clamp(min=0).mean(1) / 2,
            "self-influence": lambda: self_influence(h),
            "summed over runs of 2, 4, 8 epochs and the model": lambda: sum_of([mean(x) for x in (*self.runs, h)]),
            "harm, summed over the same": lambda: sum_of([harm(x) for x in (*self.runs, h)]),
            "less that of the run of 2 epochs (debias)": lambda: sum_of([mean(h), -mean(self.runs[0])]),
            "harm, less that of the run of 2 epochs": lambda: sum_of([harm(h), -harm(self.runs[0])]),
            "ranks of harm and clip_score": lambda: ranks(harm(h)) + ranks(-similarity(h)),
            "ranks of harm, positive role, and clip_score": lambda: (
                ranks(harm(h, role="positive")) + ranks(-similarity(h))
            ),
            "ranks of self-influence and clip_score": lambda: ranks(self_influence(h)) + ranks(-similarity(h)),
        }
        if self.repeated:
            m = self.masked
            found |= {
                "equal captions masked: influence": lambda: mean(m),
                "equal captions masked: influence, GGN 1x": lambda: mean(m, damping=1),
                "equal captions masked: influence, GGN 100x": lambda: mean(m, damping=100),
                "equal captions masked: influence, positive role": lambda: mean(m, role="positive"),
                "equal captions masked: l-relative": lambda: mean(m) / self_influence(m).sqrt(),
                "equal captions masked: harm": lambda: harm(m),
                "equal captions masked: harm, positive role": lambda: harm(m, role="positive"),
                "equal captions masked: self-influence": lambda: self_influence(m),
                "equal captions masked: ranks of influence and clip_score": lambda: (
                    ranks(mean(m)) + ranks(-similarity(h))
                ),
                "equal captions masked: ranks of harm and clip_score": lambda: ranks(harm(m)) + ranks(-similarity(h)),
            }
        return found

    def badness(self, name: str) -> np.ndarray:
        """(N,), float64."""
        return self.table[name]().double().numpy()


def mean(h: Heads, role: Role = "removal", kind: str = "ggn", damping: float = 10.0) -> Tensor:
    """Minus influence, along the mean validation gradient."""
    return -(h.gradients(role) @ h.factor(kind, damping).solve(h.validation_gradients.mean(0)))


def single(h: Heads, role: Role = "removal", kind: str = "ggn", damping: float = 10.0) -> Tensor:
    """IS_nj, (N, V)."""
    return h.gradients(role) @ h.factor(kind, damping).solve(h.validation_gradients).T


def harm(h: Heads, role: Role = "removal", kind: str = "ggn", damping: float = 10.0) -> Tensor:
    """Mean over validation pairs of max(0, -IS_nj): what they would gain, the losses of others not set against it."""
    return (-single(h, role, kind, damping)).clamp(min=0).mean(1)


def self_influence(h: Heads) -> Tensor:
    """d^T H^-1 d."""
    d_NK = h.gradients("removal")
    return (d_NK * h.factor().solve(d_NK)).sum(1)


def similarity(h: Heads) -> Tensor:
    """u . v."""
    u, v = h.corpus.embed()
    return (u * v).sum(1)


def ranks(x_N: Tensor) -> Tensor:
    """0 for the smallest."""
    return x_N.argsort().argsort().double()


def sum_of(parts: list[Tensor]) -> Tensor:
    """Sum in units of each part's standard deviation: the runs' gradients have sizes of their own."""
    return torch.stack([part / part.std() for part in parts]).sum(0)


def cancellation(h: Heads) -> float:
    """Median over the pairs of |mean_j IS_nj| / mean_j |IS_nj|: what is left of the influences when they are added."""
    table_NV = single(h)
    return float((table_NV.mean(1).abs() / table_NV.abs().mean(1)).median())


def _projected_out(h: Heads, gradients_MK: Tensor, count: int) -> Tensor:
    leading = torch.linalg.eigh(gradients_MK.T @ gradients_MK).eigenvectors[:, -count:].T
    w_K = h.factor().solve(h.validation_gradients.mean(0))
    return -(h.gradients("removal") @ (w_K - leading.T @ (leading @ w_K)))


def _matched(h: Heads, *, images: bool, captions: bool) -> Tensor:
    (u, v), (u_val, v_val) = h.corpus.embed(), h.validation.embed()
    table_NV, total = single(h), torch.zeros(h.n)
    for used, near_NV in ((images, u @ u_val.T), (captions, v @ v_val.T)):
        if used:
            total -= table_NV.gather(1, near_NV.topk(NEIGHBOURS, dim=1).indices).mean(1)
    return total


def _clusters(h: Heads) -> Tensor:
    """Spherical k-means of the validation images; one direction for each cluster's mean gradient."""
    x_VD, _ = h.validation.embed()
    generator = torch.Generator().manual_seed(0)
    centres = x_VD[torch.randperm(len(x_VD), generator=generator)[:CLUSTERS]]
    for _ in range(20):
        nearest = (x_VD @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, x_VD)
        centres = torch.nn.functional.normalize(sums, dim=1)
    used, numbers = nearest.unique(return_inverse=True)
    gradients = torch.zeros(len(used), h.projection.size).index_add_(0, numbers, h.validation_gradients)
    gradients /= numbers.bincount().unsqueeze(1)
    return -(h.gradients("removal") @ h.factor().solve(gradients).T).amin(1)
