"""Cosine similarity u_n . v_n; lower is worse (CLIPScore, arXiv 2104.08718, without its factor 2.5)."""

from torch import Tensor

from ecif.detectors.views import BatchView


def compute(view: BatchView) -> Tensor:
    """(B,): the diagonal of the logits, the scale divided out."""
    return view.s_BB.diagonal() / view.scale
