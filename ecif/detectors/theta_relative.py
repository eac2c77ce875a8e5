"""theta-RelatIF: influence over the length of the parameters' move, IS / |H^-1 d|; lower is worse (2003.11630)."""

from torch import Tensor

from ecif import relative
from ecif.detectors.views import RelativeView


def compute(view: RelativeView) -> Tensor:
    """(N,): signed.

    Raises:
        ValueError: the view has no inner products.
    """
    if view.columns is None:
        raise ValueError("theta_relative needs the inner products of the gradients behind H^-1")
    return relative.theta_relative(view.positive_N[None], view.negative_N[None], view.columns).value[0]
