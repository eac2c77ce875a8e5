"""Which score decides where a policy leaves it open, and what its canaries promise of a decision.

`--detector auto` is the learned detector where enough canaries taught it, and clip_score otherwise. The answer is part
of the decision, and stays: an output that was cut by the one is never looked at by the other because more canaries came
with new shards. The trade-off: two keys may hold the decision of one policy, and both are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ecif import detectors, keys
from ecif.calibration import state
from ecif.calibration.curve import Curve
from ecif.calibration.measure import Estimate
from ecif.calibration.state import Calibration
from ecif.errors import UsageError
from ecif.layout import Layout
from ecif.policy.decision import Decision
from ecif.policy.settings import PolicySettings
from ecif.progress import Progress
from ecif.storage import Storage

FEWEST = 100
"""Canaries that teach a detector well enough to be taken unasked; the intervals of fewer say little."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What canaries say of a decision, if natural mistakes score as they do.

    Attributes:
        calibration: its key. share: of mistakes among all pairs.
        precision: share of mistakes among the pairs that go. recall: share of the mistakes that go.
    """

    calibration: str
    share: Estimate
    precision: Estimate
    recall: Estimate

    def line(self) -> str:
        """For people."""
        return (
            f"if mistakes are like the canaries, {self.precision.percent()} of what goes is wrong, and "
            f"{self.recall.percent()} of what is wrong goes; {self.share.percent()} of all pairs are wrong"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        parts = {name: getattr(self, name).to_json() for name in ("share", "precision", "recall")}
        return {"calibration": self.calibration, **parts}


def candidates(policy: PolicySettings) -> tuple[PolicySettings, ...]:
    """The policy with each detector that may decide, the better one first; more than one for `auto` only.

    A threshold is one of the CLIP score unless a detector is named, and where no score ranks, none has to be learned.
    """
    if policy.detector != detectors.AUTO:
        return (policy,)
    plain = policy.model_copy(update={"detector": detectors.PLAIN})
    if policy.cut == "target_precision":
        return (policy.model_copy(update={"detector": detectors.LEARNED}),)
    by_score = (policy.cut is not None and policy.control is None) or policy.dedup
    if not by_score or policy.threshold is not None or policy.rank_by:
        return (plain,)
    return policy.model_copy(update={"detector": detectors.LEARNED}), plain


def decision_keys(score_key: str, policy: PolicySettings, lists: Mapping[str, str]) -> tuple[str, ...]:
    """The keys that the decision of a policy can have, the better one first.

    Args:
        lists: digests of the frozen lists, by name.
    """
    return tuple(keys.decision_key(score_key, one, lists) for one in candidates(policy))


def calibrated(
    layout: Layout, storage: Storage, score_key: str, settings: Mapping[str, Any], progress: Progress
) -> Calibration:
    """The calibration of these scores, made now if it has not been.

    Args:
        settings: those that the scores were made with.

    Raises:
        UsageError: they were made without canaries, or with too few.
    """
    share = float(settings.get("canaries", 0.0))
    return state.calibrate(layout, storage, score_key, keys.canary_key(score_key, share), progress=progress)


def chosen(
    policy: PolicySettings,
    layout: Layout,
    storage: Storage,
    score_key: str,
    settings: Mapping[str, Any],
    progress: Progress,
) -> tuple[PolicySettings, Calibration | None]:
    """The policy with the detector that decides, and what canaries say, where there are any.

    Raises:
        UsageError: the learned detector or a precision is asked for, and there are too few canaries.
    """
    options = candidates(policy)
    if not (policy.cut and not policy.rank_by and not policy.where) and options[0].detector != detectors.LEARNED:
        return options[0], None  # canaries say nothing of such a cut: their tables are not read
    try:
        found = calibrated(layout, storage, score_key, settings, progress)
    except UsageError as error:
        if len(options) == 1 and (options[0].detector == detectors.LEARNED or policy.cut == "target_precision"):
            raise
        if len(options) > 1:
            progress.note(f"{detectors.PLAIN} decides: {error}")
        return options[-1], None
    if len(options) == 1:
        return options[0], found
    learned, plain = options
    if (planted := sum(found.canaries.values())) >= FEWEST:
        return learned, found
    progress.note(
        f"{detectors.PLAIN} decides: {planted:,} canaries are too few to learn {detectors.LEARNED} from, which takes "
        f"{FEWEST}; a larger --canaries in a new output has more"
    )
    return plain, found


def curve_of(calibration: Calibration, detector: str) -> Curve:
    """The curve of the score that decides.

    Raises:
        UsageError: canaries do not have this score.
    """
    try:
        return calibration.curves[detector]
    except KeyError:
        known = ", ".join(name for name in calibration.curves if name != state.WITHOUT)
        problem = f"--detector {detector}: canaries do not have this score, so the precision of a cut is not known"
        raise UsageError(f"{problem}; choose one of {known}") from None


def cut_for(calibration: Calibration, detector: str, precision: float) -> float:
    """The threshold that drops as many as possible with this estimated precision.

    Raises:
        UsageError: no cut reaches it, or canaries do not have this score.
    """
    curve = curve_of(calibration, detector)
    cut = curve.cut_for(precision, calibration.share)
    if cut is None:
        best = max(curve.precision(cut, calibration.share).value for cut in curve.cuts)
        problem = f"--target-precision {precision:g}: no cut of {detector} reaches it by the canaries"
        raise UsageError(f"{problem}, the best has {best:.3f}; ask for less, or name the size of the cut with --drop")
    # The curve counts the pairs at the cut, too; a threshold takes what is strictly worse.
    return math.nextafter(cut, -math.inf if curve.higher_is_worse else math.inf)


def expected(layout: Layout, storage: Storage, decision: Decision) -> Expected | None:
    """What canaries promise of a decision; None where they say nothing of its cut.

    They say nothing without a calibration, of expressions and of cuts that differ from group to group.

    Raises:
        InputError: the calibration is damaged.
    """
    if not decision.calibration:
        return None
    calibration = state.load(layout, storage, decision.calibration)
    share = calibration.share
    if decision.control is not None:
        going = decision.n_dropped / decision.n_ok if decision.n_ok else 0.0
        return Expected(decision.calibration, share, share, Estimate(going, going, going))
    curve = calibration.curves.get(decision.detector)
    if curve is None or decision.threshold is None or decision.rank_by or decision.where:
        return None
    precision, recall = curve.precision(decision.threshold, share), curve.recall(decision.threshold)
    return Expected(decision.calibration, share, precision, recall)
