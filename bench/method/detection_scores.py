"""Every detector of ecif.detectors on one corpus, through the views that the scoring stage fills."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from bench.method.detection_heads import SEGMENTATIONS, Heads
from ecif import contrastive
from ecif.detectors import NAMES, OPTIONAL, facts, load
from ecif.detectors.views import BatchView, Change, Checkpoint, RelativeView, ShardView
from ecif.gradients import Role
from ecif.relative import Columns, gradient_squares, self_influence

DIRECTIONS = ("influence", "gradient", "ekfac", "trak")


class Detectors:
    """Scores by name, higher for worse, of one corpus under its model."""

    def __init__(self, heads: Heads) -> None:
        self.heads = heads
        self.captions_N, _ = heads.found.numbers()

    def badness(self, name: str) -> np.ndarray:
        """(N,)."""
        known = facts(name)
        compute = load(name)
        if known.level == "shard":
            scores = compute(self._shard).double()
        elif known.level == "relative":
            scores = compute(self._relative).double()
        else:
            scores = torch.zeros(self.heads.n, dtype=torch.float64)
            for view, rows in self._views:
                scores[rows] += compute(view).double() / SEGMENTATIONS
        return (scores if known.higher_is_worse else -scores).numpy()

    @cached_property
    def _shard(self) -> ShardView:
        u, v = self.heads.corpus.embed()
        return ShardView(u, v, gradients={"positive": self.heads.gradients("positive")})

    @cached_property
    def _relative(self) -> RelativeView:
        """Lengths are those in the projection."""
        heads = self.heads
        h, g_K = heads.factor(dtype=torch.float64), heads.validation_gradients.mean(0).double()
        positive_NK = heads.gradients("positive").double()
        negative_NK = heads.gradients("removal") - positive_NK
        w_K = h.solve(g_K)
        return RelativeView(
            positive_NK @ w_K,
            negative_NK @ w_K,
            float(g_K.norm()),
            Columns.exact(positive_NK, negative_NK, h),
            self_influence(positive_NK, negative_NK, h),
            gradient_squares(positive_NK + negative_NK),
        )

    @cached_property
    def _views(self) -> list[tuple[BatchView, torch.Tensor]]:
        heads = self.heads
        gradient = heads.validation_gradient
        embedded = heads.embedded(heads.direction, gradient, heads.ekfac_direction, heads.trak_direction)
        stepped = heads.stepped().embed()
        validation_VK = heads.factor().solve(heads.validation_gradients)
        runs = [(run.corpus.embed(), run.corpus.scale) for run in heads.found.runs]
        runs.append((heads.corpus.embed(), heads.corpus.scale))
        found = []
        roles: tuple[Role, ...] = ("positive", "removal")
        for batches in heads.batches:
            for rows in batches:
                batch = embedded.take(rows)
                view = BatchView(
                    contrastive.logits(batch.u_BD, batch.v_BD, batch.scale),
                    batch.scale,
                    "exact",
                    self.captions_N[rows],
                    {name: Change.of(batch, r) for r, name in enumerate(DIRECTIONS)},
                    contrastive.logits(stepped[0][rows], stepped[1][rows], batch.scale),
                    {role: heads.gradients(role)[rows] for role in roles},
                    heads.factor(),
                    tuple(Checkpoint(contrastive.logits(u[rows], v[rows], s), s) for (u, v), s in runs),
                    validation_VK,
                )
                found.append((view, rows))
        return found


ALL = (*NAMES, *OPTIONAL)
