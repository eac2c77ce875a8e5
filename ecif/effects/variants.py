"""Which pairs a variant leaves out: none, as many at random, or the worst by a score.

All but the first leave out the same number. The order of the worst is that of `ecif plan`: equal scores go by uid, key,
shard and place. Random pairs are drawn anew for every seed, so that the interval of the control holds what the luck of
a draw is worth.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import numpy.typing as npt

from ecif.effects.population import Population
from ecif.errors import UsageError

AS_IS, RANDOM = "as is", "random subset"


def size(population: Population, share: Decimal) -> int:
    """How many pairs a share of them is, rounded down as every cut is.

    Raises:
        UsageError: none, or all of them.
    """
    count = int(share * len(population))
    if not 0 < count < len(population):
        what = "none" if count == 0 else "all"
        raise UsageError(
            f"--drop {share}: that is {what} of {len(population):,} pairs, which leaves nothing to compare"
        )
    return count


def dropped(population: Population, variant: str, count: int, seed: int) -> npt.NDArray[np.intp]:
    """Rows that the variant leaves out, ascending: `count` of them, or none as it is."""
    if variant == AS_IS:
        return np.arange(0)
    if variant == RANDOM:
        return np.sort(np.random.default_rng((0xECF, seed)).permutation(len(population))[:count])
    import polars as pl

    ranked = population.pairs.with_columns(pl.Series("worse", population.worse[variant])).with_row_index("row")
    order = ranked.sort("worse", "uid", "key", "shard", "index")["row"].head(count)
    return np.sort(order.to_numpy()).astype(np.intp)
