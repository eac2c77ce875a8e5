"""negCLIPLoss, -(1 / 2s) x the mean of Pos_n over random batches; lower is worse (arXiv 2405.19547)."""

from torch import Tensor

from ecif import contrastive
from ecif.influence import BatchTerms


def compute(terms: BatchTerms) -> Tensor:
    """(B,): similarity less the log-sum-exp of its row's and column's competitors, in units of cosine."""
    return -contrastive.positive(terms.s_BB) / (2 * terms.scale)
