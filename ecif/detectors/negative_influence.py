"""<w, grad of the negative role>: the same when it is lost as a negative; lower is worse (arXiv 2411.11667)."""

from torch import Tensor

from ecif import influence
from ecif.detectors.views import BatchView


def compute(view: BatchView) -> Tensor:
    """(B,): derivative of NegX_n, or of Neg_n for the first-order role, along w."""
    return influence.negative_influence(view.terms("influence"))
