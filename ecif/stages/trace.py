"""Trace-back: which pairs of the corpus a test loss comes from.

With w = H^-1 grad L_test from the factor of the fit, the influence of a training pair on a test loss is the same
derivative that scoring takes along the direction of the validation loss. So all cases are answered by one pass over
the shards, in which they, and the probes of the relative forms, are further directions beside each other; or, where
the projected gradients were kept with the scores, by products with these, without the model. Of the corpus only the k
first pairs of each case and side are held.

    responsible   influence < 0: removing the pair is predicted to lower the test loss
    supporting    influence > 0: removing it is predicted to raise the test loss
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from ecif import relative
from ecif.errors import UsageError
from ecif.inventory import Shard
from ecif.keys import digest
from ecif.progress import Progress, Silent
from ecif.relative import FEWEST_PROBES
from ecif.run import Run
from ecif.stages import loop, pulls
from ecif.stages.cases import Asked, Case
from ecif.stages.engine import Engine
from ecif.stages.fitted import Fit
from ecif.stages.pulls import Pulls

RankBy = Literal["influence", "relative", "theta-relative", "l-relative"]
Side = Literal["responsible", "supporting"]
SIDES: tuple[Side, Side] = ("responsible", "supporting")


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for.

    Attributes:
        top: pairs of each side. rank_by: by its absolute value they are ordered; the sign is that of the influence.
        probes: random directions by which a pass over the corpus estimates the relative forms; 0 leaves them out.
    """

    top: int
    rank_by: RankBy
    probes: int


@dataclass(frozen=True, slots=True)
class Contribution:
    """A pair of the corpus, and what it has to do with one case; None where a form was not computed.

    Attributes:
        influence: predicted change of the test loss when the pair is removed, the sum of its two roles.
        relative: relative-IS, in [0, 1]. relative_se: standard error of its estimate, 0 where it is exact.
        theta_relative, l_relative: theta-RelatIF and l-RelatIF.
    """

    shard: str
    index: int
    uid: str
    key: str
    clip_score: float
    influence: float
    positive_influence: float
    negative_influence: float
    relative: float | None = None
    relative_se: float | None = None
    theta_relative: float | None = None
    l_relative: float | None = None


@dataclass(slots=True)
class Traced:
    """What came of a trace.

    Attributes:
        found: by case and side, the first first. pairs: of the corpus that were looked at, by their influence known.
        by_index: whether from stored gradients. failed: shards that were set aside.
    """

    found: dict[tuple[int, Side], list[Contribution]]
    by_index: bool
    pairs: int = 0
    failed: tuple[loop.Failure, ...] = ()


SCHEMA: dict[str, Any] = {
    "case": pl.UInt32,
    "name": pl.String,
    "side": pl.String,
    "rank": pl.UInt32,
    "shard": pl.String,
    "index": pl.UInt32,
    "uid": pl.String,
    "key": pl.String,
    **dict.fromkeys(("clip_score", "influence", "positive_influence", "negative_influence"), pl.Float64),
    **dict.fromkeys(("relative", "relative_se", "theta_relative", "l_relative"), pl.Float64),
    "caption": pl.String,
}
"""Columns of the table of a trace: case, side and place, then the fields of `Contribution`, then the caption."""


def key(run: Run, cases: Sequence[Case], candidates: Sequence[str] | None, options: Options) -> str:
    """Key of a trace: of its cases, its options, the scores' key and the corpus as it is inventoried now."""
    return digest(
        {
            "cases": [[hashlib.sha256(c.image).hexdigest(), c.caption, c.mistaken] for c in cases],
            "candidates": None if candidates is None else list(candidates),
            "options": [options.top, options.rank_by, options.probes],
            "scores": run.score_key,
            "corpus": [[shard.name, shard.size, shard.etag] for shard in run.inventory.shards],
        }
    )


def trace(
    run: Run, engine: Engine, fit: Fit, asked: Sequence[Asked], options: Options, progress: Progress = Silent()
) -> Traced:
    """Find the pairs of the corpus that the cases' losses come from.

    A shard that cannot be read is set aside.

    Raises:
        UsageError: the order needs probes, and there are too few.
    """
    by_index = pulls.has_index(run)
    relative_wanted = options.probes > 0 or options.rank_by != "influence"
    if relative_wanted and not by_index and options.probes < FEWEST_PROBES:
        raise UsageError(
            f"--probes {options.probes}: relative forms are estimated from {FEWEST_PROBES} probes at least; "
            "0 leaves them out, with --rank-by influence"
        )
    traced = Traced({(number, side): [] for number in range(len(asked)) for side in SIDES}, by_index)
    norms_T = torch.tensor([one.gradient_norm for one in asked], dtype=torch.float64)
    if by_index:
        pull = pulls.from_index(run, engine, fit, asked)
    else:
        own = options.rank_by == "l-relative"
        pull = pulls.by_pass(run, engine, fit, asked, progress, probes=options.probes, own=own)

    def work(shard: Shard) -> None:
        for part in pull(shard):
            traced.pairs += part.positive_TN.shape[1]
            _keep(traced.found, shard, part, norms_T, options)
        if by_index:
            progress.advance(shard.samples or 0)

    worked = loop.over(run.inventory.shards, work, progress, max_failed=run.settings.max_failed)
    traced.failed = worked.failed
    return traced


def _keep(
    found: dict[tuple[int, Side], list[Contribution]], shard: Shard, part: Pulls, norms_T: Tensor, options: Options
) -> None:
    """Merge the rows of a shard into the first k of each case and side."""
    values = _values(part, norms_T)
    merit = np.abs(values[_column(options.rank_by)])
    for number, influence in enumerate(values["influence"]):
        for side, rows in zip(SIDES, (np.flatnonzero(influence < 0), np.flatnonzero(influence > 0)), strict=True):
            first = rows[np.argsort(-merit[number, rows], kind="stable")[: options.top]]
            new = []
            for row in first.tolist():
                numbers: dict[str, Any] = {name: float(column[number, row]) for name, column in values.items()}
                new.append(Contribution(shard.name, *part.name(row), **numbers))
            both = found[number, side] + new
            both.sort(key=lambda c: (-abs(getattr(c, _column(options.rank_by))), c.shard, c.index))
            found[number, side] = both[: options.top]


def _column(rank_by: RankBy) -> str:
    """The field of `Contribution` that orders a side."""
    return rank_by.replace("-", "_")


def _values(part: Pulls, norms_T: Tensor) -> dict[str, np.ndarray]:
    """The numbers of `Contribution` by name, (T, N) each, as far as the rows allow."""
    positive, negative = part.positive_TN, part.negative_TN
    found = {
        "influence": positive + negative,
        "positive_influence": positive,
        "negative_influence": negative,
    }
    if part.columns is not None:
        inside = relative.relative_influence(positive, negative, part.columns, norms_T.to(positive.device))
        found |= {"relative": inside.value, "relative_se": inside.error}
        found["theta_relative"] = relative.theta_relative(positive, negative, part.columns).value
    if part.own is not None:
        found["l_relative"] = relative.l_relative(positive + negative, part.own).value
    return {name: value.cpu().numpy() for name, value in found.items()}
