"""<w, grad Pos_n>: change of the validation loss when the pair is lost as a positive; lower is worse (2411.11667)."""

from torch import Tensor

from ecif import influence
from ecif.detectors.views import BatchView


def compute(view: BatchView) -> Tensor:
    """(B,): derivative of Pos_n along w."""
    return influence.positive_influence(view.terms("influence"))
