"""L2 norm of the projected gradient of Pos_n; higher is worse (outlier gradients, arXiv 2405.03869)."""

from torch import Tensor

from ecif.detectors.views import BatchView


def compute(view: BatchView) -> Tensor:
    """(B,)."""
    return view.gradients["positive"].norm(dim=1)
