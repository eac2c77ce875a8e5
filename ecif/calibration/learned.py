"""The learned detector: a sum of score columns whose weights canaries taught, in arithmetic that is alike everywhere.

Each column is turned so that higher is worse, put on a robust scale of the corpus and compressed,

    z = +-(x - median) / spread,    f(z) = z / sqrt(1 + |z|),    misalignment = intercept + sum w_j f(z_j)

with weights that `fitting` chooses, nearly all of them not negative: a pair does not look better for scoring worse. The
misalignment estimates log(density among canaries / density among real pairs).

What decides must be the same bits on every machine: additions, products, quotients and square roots in a fixed order,
which IEEE 754 defines, and neither exp nor a matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif import detectors
from ecif.calibration.measure import Array

_NORMAL = 1.349  # interquartile range of a normal distribution over its standard deviation


@dataclass(frozen=True, slots=True)
class Model:
    """A linear detector over score columns.

    Attributes:
        columns: score columns, in the order in which they are added up; those that have a weight.
        signs: 1.0 where higher is worse, otherwise -1.0. centres, scales: of the corpus, median and spread.
        weights: not 0. intercept: of the sum.
        base: the column whose weight was free. penalty: of the others; None: they have no weight.
    """

    columns: tuple[str, ...]
    signs: tuple[float, ...]
    centres: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    base: str
    penalty: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; Python's floats survive it to the last bit."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Any) -> Model:
        """What `to_json` gave.

        Raises:
            ValueError: it is not a model.
        """
        if not isinstance(value, dict) or set(value) != {field.name for field in fields(cls)}:
            raise ValueError("not a learned detector of this version")
        lists = {name: tuple(part) for name, part in value.items() if isinstance(part, list)}
        model = cls(**(value | lists))
        if len({len(part) for part in lists.values()}) != 1 or not model.columns:
            raise ValueError("a learned detector has a sign, a centre, a scale and a weight for each column")
        return model

    def misalignment(self, scores: pl.DataFrame) -> Array:
        """The score of each row, (n,) float64: the higher the worse.

        Args:
            scores: has the columns. A value that is null or not finite counts as the median of the corpus, which says
                nothing; a row in which all of them are gets NaN.
        """
        columns = [scores[name].cast(pl.Float64).fill_null(float("nan")).to_numpy() for name in self.columns]
        total = np.full(scores.height, self.intercept)
        for column, sign, centre, scale, weight in zip(
            columns, self.signs, self.centres, self.scales, self.weights, strict=True
        ):
            total = total + weight * compressed(column, sign, centre, scale)
        total[~np.isfinite(np.stack(columns)).any(0)] = np.nan
        return total


def compressed(column: Array, sign: float, centre: float, scale: float) -> Array:
    """f(z) of one column: linear about the median, a root in the tails; 0 where the column has no finite value."""
    z = sign * ((column - centre) / scale)
    z = np.where(np.isfinite(z), z, 0.0)
    return np.asarray(z / np.sqrt(1.0 + np.abs(z)))


@dataclass(frozen=True, slots=True)
class Features:
    """Columns of canaries and real pairs on the scale of the model.

    Attributes:
        columns, signs, centres, scales: as in `Model`.
        canary_CJ, real_NJ: f(z). kinds: of the canaries, (C,) integers from 0.
        folds: of canaries and of real pairs, (C,) and (N,) integers from 0.
    """

    columns: tuple[str, ...]
    signs: tuple[float, ...]
    centres: tuple[float, ...]
    scales: tuple[float, ...]
    canary_CJ: Array
    real_NJ: Array
    kinds: npt.NDArray[np.intp]
    folds: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]

    @property
    def of_canaries(self) -> Array:
        """Weights of the canaries, (C,), one in all: every kind counts alike."""
        counts = np.bincount(self.kinds)
        return 1.0 / (counts[self.kinds] * np.count_nonzero(counts))

    def keep(self, names: Sequence[str]) -> Features:
        """The same without the other columns."""
        places = [place for place, name in enumerate(self.columns) if name in names]
        picked = {name: tuple(getattr(self, name)[p] for p in places) for name in ("signs", "centres", "scales")}
        chosen = tuple(self.columns[place] for place in places)
        return Features(
            chosen,
            **picked,
            canary_CJ=self.canary_CJ[:, places],
            real_NJ=self.real_NJ[:, places],
            kinds=self.kinds,
            folds=self.folds,
        )


def features(
    canary: Mapping[str, Array],
    real: Mapping[str, Array],
    kinds: npt.NDArray[np.intp],
    folds: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]],
) -> Features:
    """Columns that every canary has, on robust scales; a column that is the same for most pairs is left out.

    So are columns that look at a whole shard: their canaries are scored among other canaries, the real pairs are not,
    and a sum would learn that difference.

    Args:
        canary, real: values by the name of the column, (C,) and (N,) each.
    """
    names, scales, centres, signs = [], [], [], []
    for name, values in real.items():
        whole = np.isfinite(canary[name]).all() and np.isfinite(values).any()
        if not whole or detectors.facts(name).level == "shard":
            continue
        low, middle, high = (float(part) for part in np.quantile(values[np.isfinite(values)], [0.25, 0.5, 0.75]))
        if (spread := (high - low) / _NORMAL) > 0:
            names.append(name)
            scales.append(spread)
            centres.append(middle)
            signs.append(1.0 if detectors.facts(name).higher_is_worse else -1.0)

    def matrix(values: Mapping[str, Array]) -> Array:
        columns = (compressed(values[n], *of) for n, *of in zip(names, signs, centres, scales, strict=True))
        return np.stack(list(columns), axis=1)

    return Features(
        tuple(names), tuple(signs), tuple(centres), tuple(scales), matrix(canary), matrix(real), kinds, folds
    )
