"""l-RelatIF: influence over the root of self-influence, IS / sqrt(d^T H^-1 d); lower is worse (arXiv 2003.11630)."""

from torch import Tensor

from ecif import relative
from ecif.detectors.views import RelativeView


def compute(view: RelativeView) -> Tensor:
    """(N,): signed.

    Raises:
        ValueError: the view has no self-influence.
    """
    if view.own is None:
        raise ValueError("l_relative needs the self-influence of the pairs")
    return relative.l_relative((view.positive_N + view.negative_N)[None], view.own).value[0]
