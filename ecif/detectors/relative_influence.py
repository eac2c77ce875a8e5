"""relative-IS with the sign of the influence: the share of grad L_val in what the pair can move; lower is worse.

ECIF (arXiv 2411.11667) defines it without a sign, in [0, 1], to rank the pairs behind a misprediction. With the sign of
the influence, -1 is a pair that acts on nothing but the validation loss, and raises it.
"""

import torch
from torch import Tensor

from ecif import relative
from ecif.detectors.views import RelativeView


def compute(view: RelativeView) -> Tensor:
    """(N,): in [-1, 1].

    Raises:
        ValueError: the view has no inner products.
    """
    if view.columns is None:
        raise ValueError("relative_influence needs the inner products of the gradients behind H^-1")
    norm_1 = torch.tensor([view.norm], dtype=torch.float64, device=view.positive_N.device)
    found = relative.relative_influence(view.positive_N[None], view.negative_N[None], view.columns, norm_1).value[0]
    return found * torch.sign(view.positive_N + view.negative_N)
