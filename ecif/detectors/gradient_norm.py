"""Length of the gradient of removing the pair, in the whole space of the trainable parameters; higher is worse.

Unlike `gradient_l2` it takes both roles and is not projected; random probes estimate it (arXiv 2405.03869 ranks by
norms of gradients of single losses).
"""

from torch import Tensor

from ecif.detectors.views import RelativeView


def compute(view: RelativeView) -> Tensor:
    """(N,): not negative.

    Raises:
        ValueError: the view has no lengths.
    """
    if view.squares is None:
        raise ValueError("gradient_norm needs derivatives along random probes")
    return view.squares.roots.value
