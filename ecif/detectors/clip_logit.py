"""Probability of the given caption among the captions of the batch at a temperature of 0.01; lower is worse.

Sample selection by CLIP's zero-shot prediction (arXiv 2310.10463; CLIPCleaner, arXiv 2408.10012), with the captions of
the batch in the place of class prompts. As with class prompts every caption counts once: one that m pairs share has
the weight 1/m each time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ecif.detectors.views import BatchView

TEMPERATURE = 0.01


def compute(view: BatchView) -> Tensor:
    """(B,): log of the probability; the order is the same and no digits are lost near 0 and 1."""
    z_BB = view.s_BB / (view.scale * TEMPERATURE)
    same_BB = view.captions_B[:, None] == view.captions_B
    shares_B = same_BB.sum(1).to(z_BB.dtype)
    return z_BB.diagonal() - torch.logsumexp(z_BB - shares_B.log(), 1)
