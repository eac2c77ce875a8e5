"""Cosine similarity averaged over the checkpoints of a training run; lower is worse.

The mean confidence of training dynamics (dataset cartography, arXiv 2009.10795), with the similarity as confidence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ecif.detectors.views import BatchView


def compute(view: BatchView) -> Tensor:
    """(B,): mean over `view.checkpoints`.

    Raises:
        ValueError: the view has no checkpoints.
    """
    if not view.checkpoints:
        raise ValueError("average_similarity needs checkpoints of a training run")
    return torch.stack([point.s_BB.diagonal() / point.scale for point in view.checkpoints]).mean(0)
