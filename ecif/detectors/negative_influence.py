"""<w, grad of the negative role>: the same when it is lost as a negative; lower is worse (arXiv 2411.11667)."""

from torch import Tensor

from ecif import contrastive
from ecif.detectors.views import BatchView


def compute(view: BatchView) -> Tensor:
    """(B,): derivative of NegX_n, or of Neg_n for the first-order role, along w."""
    derivative = contrastive.d_negative_exact if view.negative_role == "exact" else contrastive.d_negative
    return derivative(view.s_BB, view.changes["influence"].whole_BB)
