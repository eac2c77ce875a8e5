"""What one row says: whether its pair may go, how bad it is, and which group it belongs to.

Cuts are made from this, and applied by it: planning and applying cannot disagree on a pair, because both ask here. A
rule is a few words of the decision; whatever ranks pairs (a column, an expression, chance) becomes one float32 per
row, the smaller the worse.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif import detectors
from ecif.calibration.learned import Model
from ecif.policy import expressions
from ecif.policy.grammar import Node, columns, parse
from ecif.scores import scored, worseness

OF_SCORES = frozenset(
    ("uid", "key", "shard", "index", "batch", "position", "batch_n", "status", *detectors.COLUMNS)
)  # fmt: skip
"""Columns of a score table; every other name in an expression is a column of the table beside the shard."""

BESIDE = "beside:"
"""Begins the name of a column that was joined from there."""

_BITS = 24  # of a hash: what a float32 holds exactly


@dataclass(frozen=True, slots=True)
class View:
    """The pairs of one table that may go, the candidates.

    Attributes:
        scored: rows with a score, whether they are candidates or not.
        rows: (m,) their places in the table. worse: (m,) float32, the smaller the worse; -0.0 has become 0.0.
        groups: (m,) their groups as text, null where unknown; None without groups.
    """

    scored: int
    rows: npt.NDArray[np.intp]
    worse: npt.NDArray[np.float32]
    groups: pl.Series | None


@dataclass(frozen=True, slots=True)
class Rule:
    """Attributes:
    detector, higher_is_worse: the deciding column and its sense.
    rank_by: an expression that ranks instead, lower is worse; where it is unknown, the pair is no candidate.
    where: only pairs for which this expression is true are candidates; empty: all scored pairs.
    by: the column whose values are the groups; empty: one group.
    control: rank by chance instead, with this seed.
    model: of the learned detector, where that ranks; where it says nothing, the pair is no candidate.
    """

    detector: str
    higher_is_worse: bool
    rank_by: str = ""
    where: str = ""
    by: str = ""
    control: int | None = None
    model: Model | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the score table that are looked at."""
        beside = ("uid", "key") if self.beside else ()
        if self.control is not None:
            ranked: tuple[str, ...] = ("uid",)
        elif self.model is not None:
            ranked = self.model.columns
        else:
            ranked = () if self.rank_by else (self.detector,)
        return tuple(dict.fromkeys(("status", *ranked, *sorted(self._named & OF_SCORES), *beside)))

    @property
    def beside(self) -> tuple[str, ...]:
        """Columns of the table beside the shard that are looked at."""
        return tuple(sorted(self._named - OF_SCORES))

    @property
    def _named(self) -> frozenset[str]:
        found = frozenset((self.by,)) if self.by else frozenset()
        for text, option in ((self.where, "--where"), (self.rank_by, "--rank-by")):
            found |= columns(_parsed(text, option)) if text else frozenset()
        return found

    @property
    def title(self) -> str:
        """What ranks, in a word or an expression."""
        return f"chance ({self.control})" if self.control is not None else self.rank_by or self.detector

    def values(self, table: pl.DataFrame) -> pl.Series:
        """The number that ranks, for each row: Float32, null where it is unknown; rows without a score may have one.

        Every place that needs the deciding column of a decision asks here; another way to rank is another branch.
        """
        if self.control is not None:
            seed = f"{self.control}:"
            hashed = [_chance(seed + uid) for uid in table["uid"]]
            return pl.Series(hashed, dtype=pl.Float32)
        if self.rank_by:
            value = expressions.number(_parsed(self.rank_by, "--rank-by"), "--rank-by", _in_table)
            single = table.with_columns(ecif_value=value.cast(pl.Float32))["ecif_value"]
            return single.set(~single.is_finite(), None)  # a float64 may be too large for a float32
        if self.model is not None:
            return pl.Series(self.model.misalignment(table).astype(np.float32), dtype=pl.Float32).fill_nan(None)
        return table[self.detector].cast(pl.Float32)

    def view(self, table: pl.DataFrame, where: str) -> View:
        """The candidates of a table.

        Args:
            table: rows with `columns`, and `beside` under their prefix.
            where: the file or shard that an error names.

        Raises:
            InputError: a row marked ok has no finite score in the deciding column.
        """
        if self.rank_by or self.control is not None or self.model is not None:
            ok = scored(table)
            values = self.values(table)
            chosen = ok & values.is_not_null().to_numpy()
            known = values.fill_null(0.0).to_numpy()[chosen]
            worse = (-known if self.higher_is_worse else known) + np.float32(0)
        else:
            ok, worse = worseness(table, self.detector, self.higher_is_worse, where)
            chosen = ok
        rows = np.flatnonzero(chosen)
        if self.where:
            true = expressions.truth(_parsed(self.where, "--where"), "--where", _in_table)
            holds = table.with_columns(ecif_value=true)["ecif_value"].fill_null(False).to_numpy()[rows]
            rows, worse = rows[holds], worse[holds]
        groups = table[_in_table(self.by)].cast(pl.String)[rows] if self.by else None
        return View(int(ok.sum()), rows, worse, groups)


def _in_table(name: str) -> str:
    return name if name in OF_SCORES else BESIDE + name


def _chance(text: str) -> float:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:4], "big") >> (32 - _BITS)) / (1 << _BITS)


@lru_cache(maxsize=16)
def _parsed(text: str, option: str) -> Node:
    return parse(text, option)
