"""Forward-INF (arXiv 2402.08922): what one step down the validation loss does to the pair's loss; lower is worse.

Pos_n(theta) - Pos_n(theta after the step). A pair whose loss falls when the model learns the validation pairs agrees
with them. To first order it is the step's length times `tracin`; no derivative of a scored pair is taken.
"""

from torch import Tensor

from ecif import contrastive
from ecif.detectors.views import BatchView


def compute(view: BatchView) -> Tensor:
    """(B,): fall of Pos_n.

    Raises:
        ValueError: the view has no logits after the step.
    """
    if view.stepped_BB is None:
        raise ValueError("forward_inf needs the logits after a step down the validation loss")
    return contrastive.positive(view.s_BB) - contrastive.positive(view.stepped_BB)
