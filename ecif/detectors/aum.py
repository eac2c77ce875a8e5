"""Area under the margin: logit of the given caption less that of the best other one, averaged over a training run.

AUM (arXiv 2001.10528) with the captions of the batch as the classes; lower is worse. A mistaken caption is learnt late
and against what similar images say, so its margin stays small for most of the run even if it is memorised at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ecif.detectors.views import BatchView


def compute(view: BatchView) -> Tensor:
    """(B,): mean over `view.checkpoints`. Captions equal to the given one do not compete; 0 where all are equal.

    Raises:
        ValueError: the view has no checkpoints.
    """
    if not view.checkpoints:
        raise ValueError("aum needs checkpoints of a training run")
    same_BB = view.captions_B[:, None] == view.captions_B
    margins = [
        checkpoint.s_BB.diagonal() - checkpoint.s_BB.masked_fill(same_BB, -torch.inf).amax(1)
        for checkpoint in view.checkpoints
    ]
    return torch.stack(margins).mean(0).masked_fill(same_BB.all(1), 0)
