"""Predicted change of the validation loss when the pair is removed, both roles; lower is worse (arXiv 2411.11667)."""

from torch import Tensor

from ecif.detectors import negative_influence, positive_influence
from ecif.detectors.views import BatchView


def compute(view: BatchView) -> Tensor:
    """(B,): positive plus negative influence."""
    return positive_influence.compute(view) + negative_influence.compute(view)
