"""Which score the page is about, and what a score table says of every pair by it.

It is what the decision ranks by: a column, the learned detector, or an expression. The learned detector is shown as a
probability, which its calibration gives, and compared by its sum, which is what decides. A random control ranks by
chance; there is nothing to see in that, so the page shows by how much it misses the score it is compared with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif import detectors
from ecif.calibration.state import Calibration
from ecif.detectors import Facts
from ecif.policy.decision import Decision
from ecif.policy.rule import BESIDE, OF_SCORES, Rule, View
from ecif.scores import IDENTITY, scored
from ecif.selection import dropped_mask

BEFORE = "influence"
"""What the page shows before any decision."""
RANKED, MISALIGNMENT = "rank_by", "misalignment"
"""Names of scores that are no columns and no detectors: an expression; the learned detector without a calibration."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a table of n rows says.

    Attributes:
        ok: (n,) whether the row is scored. dropped: (n,) whether the decision's score drops it.
        worse: (n,) float32, the smaller the worse; NaN where the pair is not ranked.
        margin: (n,) how far the pair lies from the cut, not positive where it goes and not negative where it stays;
            NaN where there is no cut. Where an expression alone says what goes, it is `worse`.
        group: (n,) its value in the column of the decision's groups, null without one.
    """

    ok: npt.NDArray[np.bool_]
    dropped: npt.NDArray[np.bool_]
    worse: npt.NDArray[np.float32]
    margin: npt.NDArray[np.float64]
    group: pl.Series


@dataclass(frozen=True, slots=True)
class Deciding:
    """Attributes:
    facts: of the score. columns: all scores of the page: those of the tables, then those that follow from them.
    order: ranks all scored pairs by it. rule: of the decision, or `order` before any.
    decision: None while nothing has been decided. calibration: gives `detectors.LEARNED`; None where nothing can.
    """

    facts: Facts
    columns: tuple[str, ...]
    order: Rule
    rule: Rule
    decision: Decision | None
    calibration: Calibration | None

    @classmethod
    def of(cls, decision: Decision | None, columns: tuple[str, ...], calibration: Calibration | None) -> Deciding:
        """Choose it.

        Args:
            columns: score columns of the tables. calibration: of these scores, where there is one.
        """
        rule = None if decision is None else decision.rule
        model = None if rule is None else rule.model
        if calibration is not None and (calibration.thinning.b >= 0 or model not in (None, calibration.model)):
            calibration = None  # it cannot tell pairs apart, or another one decides
        named = BEFORE if decision is None else decision.detector
        if decision is not None and decision.rank_by and decision.control is None:
            facts = Facts(RANKED, False, decision.rank_by, "--rank-by")
        elif named == detectors.LEARNED and calibration is not None:
            facts, model = detectors.facts(named), calibration.model
        elif named == detectors.LEARNED and model is not None:
            learned = detectors.facts(named)
            facts = Facts(MISALIGNMENT, True, learned.title, learned.reference)
        else:
            facts = detectors.facts(named if named in detectors.COLUMNS else BEFORE)
        rank_by = facts.title if facts.name == RANKED else ""
        order = Rule(facts.name, facts.higher_is_worse, rank_by, model=None if rank_by else model)
        derived = {detectors.LEARNED} if calibration is not None else set()
        derived |= {facts.column} - set(detectors.COLUMNS)
        stored = columns if facts.column in derived else (*columns, facts.column)
        return cls(
            facts, tuple(dict.fromkeys((*stored, *sorted(derived)))), order, rule or order, decision, calibration
        )

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns of a table to look at; those of `rule` come on top."""
        model = () if self.calibration is None else self.calibration.model.columns
        stored = (name for name in self.columns if name in detectors.COLUMNS)
        return tuple(dict.fromkeys((*IDENTITY, *self.order.columns, *model, *stored)))

    @property
    def line(self) -> float | None:
        """The cut as a value of the score; None where there is none, or one for each group."""
        decision = self.decision
        if decision is None or decision.control is not None or decision.threshold is None:
            return None
        if self.facts.name == detectors.LEARNED and self.calibration is not None:
            return float(self._probability(np.array([decision.threshold]))[0])
        return decision.threshold

    def of_column(self, name: str) -> Facts:
        """The facts of one of `columns`."""
        return self.facts if name == self.facts.column else detectors.facts(name)

    def with_all(self, table: pl.DataFrame) -> pl.DataFrame:
        """The table with all `columns`, Float32; NaN where there is no value."""
        stored = [name for name in self.columns if name in table.columns]
        found: list[pl.Expr | pl.Series] = [pl.col(stored).cast(pl.Float32).fill_null(float("nan"))]
        for name in self.columns:
            if name == detectors.LEARNED and self.calibration is not None:
                sums = self.calibration.model.misalignment(table).astype(np.float32)
                found.append(pl.Series(name, self._probability(sums.astype(np.float64)), dtype=pl.Float32))
            elif name in (RANKED, MISALIGNMENT):
                found.append(self.order.values(table).fill_null(float("nan")).alias(name))
        return table.with_columns(found)

    def see(self, table: pl.DataFrame, url: str) -> Seen:
        """What a table with `needs` and the columns of `rule` says.

        Raises:
            InputError: a pair is marked ok and has no score.
        """
        view = self.rule.view(table, url)
        ranked = view if self.order == self.rule else self.order.view(table, url)
        worse = np.full(len(table), np.nan, np.float32)
        worse[ranked.rows] = ranked.worse
        dropped = np.zeros(len(table), np.bool_)
        by = ""
        if self.decision is not None:
            dropped = dropped_mask(table, self.decision, view).to_numpy()
            by = self.decision.by
        group = pl.Series("group", [None] * len(table), dtype=pl.String)
        if by:
            group = table[by if by in OF_SCORES else BESIDE + by].cast(pl.String).alias("group")
        return Seen(scored(table), dropped, worse, self._margin(view, worse), group)

    def _margin(self, view: View, worse: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """How far the rows lie from the cut; `view` is of the decision's rule."""
        decision = self.decision
        if decision is not None and decision.every:
            return worse.astype(np.float64)
        margin = np.full(worse.size, np.nan)
        if decision is None or decision.control is not None or not (decision.groups or decision.threshold is not None):
            return margin
        sign = -1.0 if decision.higher_is_worse else 1.0
        at = np.array(np.nan if decision.threshold is None else decision.threshold)
        if decision.groups and view.groups is not None:
            cuts = {cut.group: cut.threshold for cut in decision.groups if cut.threshold is not None}
            at = np.array([cuts.get(group, np.nan) for group in view.groups], np.float64)
        margin[view.rows] = view.worse.astype(np.float64) - sign * at
        return margin

    def _probability(self, misalignment: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        assert self.calibration is not None
        return self.calibration.probability(misalignment).astype(np.float32)
