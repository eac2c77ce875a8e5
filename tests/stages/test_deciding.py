"""Which detector decides where none is named, and what canaries promise of the cut."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ecif import inventory, keys
from ecif.calibration.state import Choice, calibration_key, load
from ecif.errors import UsageError
from ecif.fields import build as build_settings
from ecif.layout import Layout
from ecif.policy.settings import PolicySettings
from ecif.progress import Silent
from ecif.selection import dropped_mask
from ecif.settings import WriteSettings
from ecif.sources import expand
from ecif.stages import deciding
from ecif.stages.plan import mark_applied, plan
from ecif.storage import Storage
from tests.calibration.world import SCORES, World, build
from tests.conftest import MakeTar

SHARE = 0.05
CANARIES = keys.canary_key(SCORES, SHARE)
Made = Any


@pytest.fixture
def make(tmp_path: Path, make_tar: MakeTar) -> Made:
    """An output with an inventory, scores and, if `planted`, canaries."""

    def made(*, planted: int = 60, shards: int = 3, share: float = 0.1, canaries: float = SHARE) -> World:
        world = build(tmp_path / "out", shards=shards, pairs=300, planted=planted, share=share, canary_key=CANARIES)
        (tmp_path / "in").mkdir(exist_ok=True)
        for number in range(shards):
            tar = tmp_path / "in" / f"{number:05d}.tar"
            if not tar.exists():
                tar.write_bytes(make_tar(1))
        storage = Storage()
        inventory.take(expand([str(tmp_path / "in")], storage), world.layout, storage, {})
        meta = {"settings": {"canaries": canaries, "columns": ["harm"]}, "fit_key": "0" * 12, "versions": {}}
        storage.publish_json(world.layout.score_meta(SCORES), meta, replace=True)
        return world

    return made


def tables(layout: Layout) -> pl.DataFrame:
    paths = sorted(Path(layout.scores_of(SCORES)).glob("*.parquet"))
    return pl.concat([pl.read_parquet(path) for path in paths])


def given(**policy: Any) -> PolicySettings:
    return build_settings(PolicySettings, policy)


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def test_with_enough_canaries_the_learned_detector_decides(make: Made) -> None:
    layout = make().layout
    decision = plan(layout, Storage(), given(drop="0.1"))
    assert decision.detector == "p_misaligned"
    assert decision.calibration == calibration_key(SCORES, CANARIES, Choice())
    assert decision.rule.model == load(layout, Storage(), decision.calibration).model
    named = plan(layout, Storage(), given(drop="0.1", detector="p_misaligned"))
    assert named == decision


def test_with_few_it_is_the_clip_score_and_says_so(make: Made) -> None:
    layout, notes = make(planted=20).layout, Notes()
    decision = plan(layout, Storage(), given(drop="0.1"), progress=notes)
    assert (decision.detector, decision.model) == ("clip_score", None)
    assert "60 canaries are too few" in notes.said[0]
    assert decision.calibration  # enough to say what the cut is worth
    with pytest.raises(UsageError, match="no canaries"):
        plan(make(canaries=0.3).layout, Storage(), given(drop="0.2", detector="p_misaligned"))


def test_without_canaries_it_is_the_clip_score(make: Made) -> None:
    decision = plan(make(canaries=0.0).layout, Storage(), given(drop="0.1"))
    assert (decision.detector, decision.calibration) == ("clip_score", "")
    assert deciding.expected(make(canaries=0.0).layout, Storage(), decision) is None


def test_a_decision_stands_when_more_canaries_come(make: Made) -> None:
    """First too few, then enough: the output stays with what it was cut by, and so does a plan that nobody applied."""
    layout, storage = make(planted=20).layout, Storage()
    first = plan(layout, storage, given(drop="0.1"))
    make(planted=100)
    Path(layout.calibration(first.calibration)).unlink()
    assert plan(layout, storage, given(drop="0.1")) == first
    better = plan(layout, storage, given(drop="0.1", detector="p_misaligned"))
    assert better.detector == "p_misaligned"
    mark_applied(layout, storage, first, WriteSettings())
    assert plan(layout, storage, given(drop="0.1")) == first


@pytest.mark.parametrize(
    "policy",
    [
        {"threshold": 0.2},
        {"rank_by": "clip_score + influence", "drop": "0.1"},
        {"where": "clip_score < 0.2"},
        {"drop": "0.1", "control": 3},
    ],
)
def test_where_no_score_ranks_none_is_learned(make: Made, policy: dict[str, Any]) -> None:
    layout = make().layout
    decision = plan(layout, Storage(), given(**policy))
    assert (decision.detector, decision.model) == ("clip_score", None)
    # Where nothing is promised either, the tables of canaries are not read.
    promises = deciding.expected(layout, Storage(), decision) is not None
    assert bool(decision.calibration) == promises == ("where" not in policy and "rank_by" not in policy)


@pytest.mark.parametrize("detector", ["auto", "clip_score", "influence"])
def test_the_loosest_cut_of_a_precision(make: Made, detector: str) -> None:
    """As many as the curve allows go, and no cut of it that takes more has the precision."""
    layout, storage = make().layout, Storage()
    decision = plan(layout, storage, given(detector=detector, target_precision="0.6"))
    calibration = load(layout, storage, decision.calibration)
    curve, share = calibration.curves[decision.detector], calibration.share
    assert decision.threshold is not None
    assert curve.precision(decision.threshold, share).value >= 0.6 - 1e-9
    sign = 1.0 if curve.higher_is_worse else -1.0
    looser = [cut for cut in curve.cuts if sign * cut < sign * decision.threshold * (1 - 1e-12) - 1e-12]
    assert all(curve.precision(cut, share).value < 0.6 for cut in looser[1:])
    scored = tables(layout)
    going = dropped_mask(scored, decision)
    assert int(going.sum()) == decision.n_dropped > 0
    assert decision.policy == {"target_precision": "0.6"}


def test_the_promise_is_near_the_truth_where_mistakes_are_like_canaries(make: Made) -> None:
    world = make(planted=150, shards=8)
    decision = plan(world.layout, Storage(), given(target_precision="0.8"))
    promised = deciding.expected(world.layout, Storage(), decision)
    assert promised is not None
    going = dropped_mask(tables(world.layout), decision).to_numpy()
    precision, recall = world.wrong[going].mean(), going[world.wrong].mean()
    assert promised.precision.low <= precision <= promised.precision.high
    assert promised.recall.low - 0.05 <= recall <= promised.recall.high + 0.05
    assert promised.share.low <= world.wrong.mean() <= promised.share.high
    assert f"{100 * promised.precision.value:.0f} % [" in promised.line()


def test_what_no_cut_reaches_is_refused_with_what_the_best_one_has(make: Made) -> None:
    with pytest.raises(UsageError, match=r"no cut of negative_influence reaches it .* the best has 0\.\d+"):
        plan(make().layout, Storage(), given(detector="negative_influence", target_precision="0.95"))


def test_a_precision_needs_canaries_that_have_the_score(make: Made) -> None:
    with pytest.raises(UsageError, match="no canaries"):
        plan(make(canaries=0.0).layout, Storage(), given(target_precision="0.9"))
    with pytest.raises(UsageError, match=r"canaries do not have this score.*choose one of"):
        plan(make().layout, Storage(), given(detector="harm", target_precision="0.9"))


@pytest.mark.parametrize("more", [{"rank_by": "clip_score"}, {"where": "clip_score < 1"}, {"drop": Decimal("0.1")}])
def test_a_precision_stands_alone(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="target-precision"):
        given(target_precision=Decimal("0.9"), **more)


@pytest.mark.parametrize("value", ["0", "1", "1.5", "-0.1", "nan"])
def test_a_precision_is_a_share(value: str) -> None:
    with pytest.raises(UsageError, match="precision"):
        given(target_precision=value)


def test_a_random_control_has_the_precision_of_the_corpus(make: Made) -> None:
    layout, storage = make().layout, Storage()
    by_score = plan(layout, storage, given(target_precision="0.6"))
    control = plan(layout, storage, given(target_precision="0.6", control=1))
    assert control.n_dropped == by_score.n_dropped
    promised = deciding.expected(layout, storage, control)
    assert promised is not None
    assert promised.precision == promised.share
    assert promised.recall.value == pytest.approx(control.n_dropped / control.n_ok)


def test_nothing_is_promised_of_groups_and_expressions(make: Made) -> None:
    layout, storage = make().layout, Storage()
    for policy in ({"drop": "0.1", "by": "shard"}, {"where": "clip_score < 0.2"}):
        assert deciding.expected(layout, storage, plan(layout, storage, given(**policy))) is None


def test_a_decision_of_before_promises_nothing(make: Made) -> None:
    layout, storage = make().layout, Storage()
    decision = replace(plan(layout, storage, given(drop="0.1", detector="clip_score")), calibration="")
    assert "calibration" not in decision.to_json()
    assert deciding.expected(layout, storage, decision) is None


def test_the_threshold_takes_the_pairs_at_the_cut(make: Made) -> None:
    layout, storage = make().layout, Storage()
    decision = plan(layout, storage, given(detector="clip_score", target_precision="0.7"))
    curve = load(layout, storage, decision.calibration).curves["clip_score"]
    assert decision.threshold is not None
    at = max(cut for cut in curve.cuts if cut < decision.threshold)
    values = tables(layout)["clip_score"].cast(pl.Float64).to_numpy()
    assert decision.n_dropped == int((values <= at).sum())
    assert np.nextafter(at, np.inf) == decision.threshold
