"""TracIn at one checkpoint: grad L_val . grad Pos_n, curvature left out, positive role; lower is worse (2002.08484)."""

from torch import Tensor

from ecif import contrastive
from ecif.detectors.views import BatchView


def compute(view: BatchView) -> Tensor:
    """(B,): derivative of Pos_n along grad L_val, the coupling with the batch included."""
    return contrastive.d_positive(view.s_BB, view.changes["gradient"].whole_BB)
