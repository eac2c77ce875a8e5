"""negCLIPLoss, -(1 / 2s) x the mean of Pos_n over random batches; lower is worse (arXiv 2405.19547)."""

from torch import Tensor

from ecif import contrastive
from ecif.detectors.views import BatchView


def compute(view: BatchView) -> Tensor:
    """(B,): similarity less the log-sum-exp of its row's and column's competitors, in units of cosine."""
    return -contrastive.positive(view.s_BB) / (2 * view.scale)
