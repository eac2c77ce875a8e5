"""How far scores agree, and the pairs on which they do not, from a random sample of the scored pairs.

Two numbers, because they answer different questions: the rank correlation (Spearman 1904) looks at all pairs, the
overlap only at the worst ones, which is what a cut takes. Influence has its two parts left out: they add up to it, so
that their agreement says nothing about other scores. Everything is exact within the sample, and the sample is what
bounds it: a disagreement that one pair in a million has is not found among twenty thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif.scores import IDENTITY

PARTS = ("positive_influence", "negative_influence")
SHARE = 0.05
"""Of pairs that counts as the worst before there is a cut."""
FEWEST = 3  # pairs; two always agree or disagree wholly
MOST = 3  # pairs of scores of which disagreements are shown

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """Scores of N pairs side by side.

    Attributes:
        columns: J of them. rows: of the sample, in the order of their identity.
        ranks_JN: places of the pairs by each score, 1 to N, the higher the worse, equals in the middle.
    """

    columns: tuple[str, ...]
    rows: pl.DataFrame
    ranks_JN: npt.NDArray[np.float64]

    def spearman(self) -> Matrix:
        """Rank correlations, J rows of J."""
        return tuple(map(tuple, np.clip(np.corrcoef(self.ranks_JN), -1.0, 1.0).tolist()))

    def overlap(self, share: float) -> Matrix:
        """Of the worst floor(share N) pairs, at least one, by the one score, the share that is there by the other, too.

        Equals are taken by identity.
        """
        n = self.ranks_JN.shape[1]
        size = min(n, max(1, int(share * n)))
        worst = np.zeros(self.ranks_JN.shape)
        np.put_along_axis(worst, np.argsort(-self.ranks_JN, axis=1, kind="stable")[:, :size], 1.0, axis=1)
        return tuple(map(tuple, (worst @ worst.T / size).tolist()))

    def apart(self, deciding: str, most: int = MOST) -> list[tuple[str, str, float]]:
        """The most different pairs of scores and their rank correlation; first one with the deciding score."""
        spearman = self.spearman()
        found = sorted(
            (spearman[i][j], first, second)
            for i, first in enumerate(self.columns)
            for j, second in enumerate(self.columns)
            if i < j
        )
        own = [item for item in found if deciding in item[1:]][:1]
        chosen = own + [item for item in found if item not in own][: most - len(own)]
        return [
            (second, first, value) if second == deciding else (first, second, value) for value, first, second in chosen
        ]

    def extremes(self, first: str, second: str, n: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Up to n rows that are bad by the first and good by the second score, from the extreme inwards; and back."""
        difference = (
            self.ranks_JN[self.columns.index(first)] - self.ranks_JN[self.columns.index(second)]
        )  # fmt: skip
        sides = []
        for gap in (difference, -difference):
            order = np.argsort(-gap, kind="stable")[:n]
            sides.append(self.rows[order[gap[order] > 0]])
        return sides[0], sides[1]


def compare(sample: pl.DataFrame, columns: Sequence[tuple[str, bool]]) -> Compared | None:
    """Put scores side by side: those that at least half of the sample has and that are not all the same.

    Args:
        sample: rows with `IDENTITY` and the columns. columns: names, and whether the higher is the worse.

    Returns:
        None where fewer than two scores, or fewer than three pairs that have all of them, are left.
    """
    if len(sample) < FEWEST:
        return None
    wanted = [(name, higher) for name, higher in columns if name not in PARTS]
    wanted = [(name, higher) for name, higher in wanted if 2 * int(sample[name].is_finite().sum()) >= len(sample)]
    whole = sample.filter(pl.all_horizontal(pl.col(name).is_finite() for name, _ in wanted)) if wanted else sample[:0]
    wanted = [(name, higher) for name, higher in wanted if whole[name].n_unique() > 1]
    if len(wanted) < 2 or len(whole) < FEWEST:
        return None
    whole = whole.sort(IDENTITY)
    ranks = [
        (whole[name].cast(pl.Float64) * (1 if higher else -1)).rank("average").to_numpy() for name, higher in wanted
    ]
    return Compared(tuple(name for name, _ in wanted), whole, np.stack(ranks))
