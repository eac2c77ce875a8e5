"""What the report says, as numbers: what `gather` collects and `page` puts into words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from ecif import detectors
from ecif.calibration.state import Calibration
from ecif.report.distribution import Histogram, Sketch
from ecif.stages.outcome import Outcome

SETS = ("worst", "borderline", "best", "random", "unscored")
"""Pairs that the page shows, beside those on which detectors disagree."""

SPARED = "spared"
"""The reason of a pair that a list or a review keeps though its score drops it, or has no score and would go."""


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A pair of the gallery.

    Attributes:
        uid, key, shard, index: who it is; `index` is its position in the tar.
        scores: by column. ranks: by column, the share of scored pairs that are worse, 0 to 1: 0 is the worst.
        dropped: whether the decision's score drops it. reason: why a pair goes by anything else (`verdicts`), `SPARED`
            where it stays all the same, or "".
        status: `ok`, or why it has no score. group: its value in the column of the decision's groups, or None.
    """

    uid: str
    key: str
    shard: str
    index: int
    scores: dict[str, float | None]
    dropped: bool
    ranks: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    status: str = "ok"
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Two scores and the pairs that they rank most differently, from the extreme inwards.

    Attributes:
        first, second: score columns. spearman: their rank correlation, both turned so that higher is worse.
        only_first: pairs that are bad by the first and good by the second. only_second: the other way round.
    """

    first: str
    second: str
    spearman: float
    only_first: list[ScoredPair]
    only_second: list[ScoredPair]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the scores agree, from a random sample of the scored pairs.

    Attributes:
        columns: J score columns. pairs: in the sample. share: of pairs that counts as the worst.
        spearman: rank correlations, J rows of J, each score turned so that higher is worse.
        overlap: of the worst pairs by the one, the share that is among the worst by the other; J rows of J.
    """

    columns: tuple[str, ...]
    pairs: int
    share: float
    spearman: tuple[tuple[float, ...], ...]
    overlap: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """A shard that is not as it should be, and why."""

    shard: str
    what: str


@dataclass(slots=True)
class Written:
    """What the manifests say."""

    shards: int = 0
    kept: int = 0
    dropped: int = 0
    quarantined: int = 0


@dataclass(slots=True)
class Numbers:
    """Everything the page says.

    Attributes:
        detector: of the deciding score, or influence before any decision. line: the cut as a value of that score; None
            where there is none, or one for each group.
        shards, scored: in the inventory, and with scores.
        rows, statuses: pairs in the scored shards, in all and by status.
        cut: scored pairs that the decision drops. top: shards with the largest share of them: (share, cut, ok, name).
        sketches: distribution by score column.
        sets: pairs to show by `SETS`. worst and best are in order from the extreme inwards, borderline from the worst
            to the best about the cut (or where one would be), random in the order of the draw. A set may be empty.
        agreement, disagreements: of the scores; None and empty where there are fewer than two.
        calibration: of these scores, where there is one. outcome: of the decision, by shard and group.
        written: from the manifests of this decision. problems: in the order of the shards.
        settings, versions, fit: as they were saved with the scores and the fit.
        tables: of the scored shards: `shard`, `rows`, `ok`, `cut`, and `statuses`, a JSON object of counts.
    """

    detector: detectors.Facts
    shards: int
    scored: int = 0
    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    top: list[tuple[float, int, int, str]] = field(default_factory=list)
    sketches: dict[str, Sketch] = field(default_factory=dict)
    histogram: Histogram | None = None
    sets: dict[str, list[ScoredPair]] = field(default_factory=lambda: {name: [] for name in SETS})
    agreement: Agreement | None = None
    disagreements: list[Disagreement] = field(default_factory=list)
    calibration: Calibration | None = None
    outcome: Outcome | None = None
    line: float | None = None
    written: Written = field(default_factory=Written)
    problems: list[Problem] = field(default_factory=list)
    missing: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    tables: pl.DataFrame = field(default_factory=pl.DataFrame)

    @property
    def ok(self) -> int:
        """Scored pairs."""
        return self.statuses["ok"]

    def facts(self, column: str) -> detectors.Facts:
        """The facts of one of `sketches`: the deciding score need be no detector, but an expression."""
        return self.detector if column == self.detector.column else detectors.facts(column)
