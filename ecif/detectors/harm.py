"""Mean over validation pairs j of max(0, -IS_nj): what the pair does wrong without what it does right; higher is worse.

IS_nj = g_j^T H^-1 grad Pos_n is the influence of pair n, as a positive, on the loss of the single validation pair j,
whose mean over j is `positive_influence`. Most of it cancels in that mean: a wrong pair harms the few that resemble its
image or its caption and helps others by chance. So the losses that would fall are added up without those that would
rise. As with all sums of absolute values, long gradients weigh more; compare with `self_influence`, which looks at
their length alone. The negative role is left out because it was measured to add nothing here (docs/log.md).
"""

from torch import Tensor

from ecif.detectors.views import BatchView


def compute(view: BatchView) -> Tensor:
    """(B,): not negative.

    Raises:
        ValueError: the view has no validation pairs.
    """
    if view.validation_VK is None:
        raise ValueError("harm needs the gradients of single validation pairs")
    influence_BV = view.gradients["positive"].to(view.validation_VK) @ view.validation_VK.T
    return influence_BV.neg().clamp(min=0).mean(1)
