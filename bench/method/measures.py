"""How far a prediction agrees with what retraining gave.

Rows are targets (a validation loss, or single validation pairs), columns are pairs left out or subsets retrained.
LDS, the linear datamodelling score, is the Spearman correlation over random subsets between the retrained outcome and
the sum of the single influences, averaged over targets (TRAK, arXiv 2303.14186).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ranks(x_TS: Array) -> Array:
    """Ranks along the last axis, ties shared: the number below plus half the number of equals."""
    below = (x_TS[..., :, None] > x_TS[..., None, :]).sum(-1)
    equal = (x_TS[..., :, None] == x_TS[..., None, :]).sum(-1)
    return below + equal / 2


def spearman(x_TS: Array, y_TS: Array) -> Array:
    """Rank correlation along the last axis; 0 where one side does not vary."""
    a, b = (r - r.mean(-1, keepdims=True) for r in (ranks(x_TS), ranks(y_TS)))
    size = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.divide((a * b).sum(-1), size, out=np.zeros_like(size), where=size > 0)


def slope(predicted_S: Array, actual_S: Array) -> float:
    """Least-squares slope of the predicted on the actual change: 1 if sizes are right, too."""
    centred = actual_S - actual_S.mean()
    return float(centred @ predicted_S / (centred @ centred))


def lds(predicted_TS: Array, actual_TS: Array) -> float:
    """Mean over the targets of the rank correlation over the subsets."""
    return float(spearman(predicted_TS, actual_TS).mean())


def bootstrap(
    measure: Callable[..., float], samples: Sequence[tuple[Array, ...]], draws: int = 500, seed: int = 0
) -> Interval:
    """Mean of `measure` over the seeds, with an interval over seeds and, within each, over the last axis.

    The interval is the normal one, 1.96 standard deviations of the bootstrapped means to either side: quantiles would
    inherit the bias of rank correlations of drawings with repetitions.

    Args:
        samples: for each seed the arrays that `measure` takes; their last axes are drawn alike.
    """
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        values = []
        for number in generator.integers(len(samples), size=len(samples)):
            arrays = samples[number]
            drawn = generator.integers(arrays[0].shape[-1], size=arrays[0].shape[-1])
            values.append(measure(*(array[..., drawn] for array in arrays)))
        found.append(float(np.mean(values)))
    value, reach = float(np.mean([measure(*arrays) for arrays in samples])), 1.96 * float(np.std(found))
    return Interval(value, value - reach, value + reach)


def mean_and_spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean, and standard deviation over the seeds."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return f"{float(np.mean(values)):.{digits}f} ± {spread:.{digits}f}"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a markdown table."""
    print(f"\n{title}\n")
    for line in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(line)} |", flush=True)
