"""How isolated the projected gradient of Pos_n is among those of its shard; higher is worse (arXiv 2405.03869).

An isolation forest over the gradients: few random cuts separate an outlier from the rest. It looks for gradients that
are unlike the others, in direction or length, and sees no validation pairs.
"""

from torch import Tensor

from ecif.detectors import isolation_forest
from ecif.detectors.views import ShardView


def compute(view: ShardView) -> Tensor:
    """(N,): between 0 and 1, about 1/2 for ordinary points."""
    return isolation_forest.anomaly(view.gradients["positive"], seed=view.seed)
