"""d_n^T H^-1 d_n with d_n the gradient of removing the pair: how far its removal moves it; higher is worse.

Koh and Liang, arXiv 1703.04730, for the removal gradient grad Pos_n + grad NegX_n. Pairs that the rest of the corpus
does not explain have a large one: mistakes, but also the rare and the hard.
"""

from torch import Tensor

from ecif.detectors.views import BatchView


def compute(view: BatchView) -> Tensor:
    """(B,): not negative.

    Raises:
        ValueError: the view has no curvature.
    """
    if view.curvature is None:
        raise ValueError("self_influence needs the curvature of the fit")
    d_BK = view.gradients["removal"]
    return (d_BK * view.curvature.solve(d_BK)).sum(1)
