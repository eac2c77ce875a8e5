"""Cosine similarity u_n . v_n; lower is worse (CLIPScore, arXiv 2104.08718, without its factor 2.5)."""

from torch import Tensor

from ecif.influence import BatchTerms


def compute(terms: BatchTerms) -> Tensor:
    """(B,): the diagonal of the logits, the scale divided out."""
    return terms.s_BB.diagonal() / terms.scale
