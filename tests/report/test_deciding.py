"""The page is about what decides: the learned detector as a probability, an expression, or what a control is like."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ecif import detectors, keys
from ecif.calibration.state import Calibration, Choice, calibrate, calibration_key
from ecif.errors import InputError
from ecif.inventory import Inventory, Shard
from ecif.policy.decision import Decision
from ecif.policy.settings import PolicySettings
from ecif.progress import Silent
from ecif.report.gather import gather
from ecif.report.numbers import Numbers
from ecif.selection import choose, dropped_mask
from ecif.stages import outcome
from ecif.storage import Storage
from tests.calibration.world import SCORES, World, build

SHARE = 0.05
CANARIES = keys.canary_key(SCORES, SHARE)


class Watching(Storage):
    """Notes what is read."""

    __slots__ = ("read",)

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def read_bytes(self, url: str) -> bytes:
        self.read.append(url.partition("/_ecif/")[2])
        return super().read_bytes(url)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = build(tmp_path_factory.mktemp("deciding") / "out", shards=4, pairs=300, canary_key=CANARIES)
    meta = {"settings": {"canaries": SHARE, "columns": ["harm"]}, "fit_key": "f"}
    Storage().publish_json(made.layout.score_meta(SCORES), meta)
    return made


@pytest.fixture(scope="module")
def calibration(world: World) -> Calibration:
    return calibrate(world.layout, Storage(), SCORES, CANARIES)


def tables(world: World) -> pl.DataFrame:
    paths = sorted(Path(world.layout.scores_of(SCORES)).glob("*.parquet"))
    return pl.concat([pl.read_parquet(path) for path in paths])


def inventory_of(world: World) -> Inventory:
    names = sorted(path.stem for path in Path(world.layout.scores_of(SCORES)).glob("*.parquet"))
    return Inventory(tuple(Shard(name, f"/in/{name}.tar", 1000, "e", 300, None, None) for name in names), ())


def decide(world: World, calibration: Calibration | None, **policy: object) -> Decision:
    scores = {shard.name: world.layout.scores(SCORES, shard.name) for shard in inventory_of(world).shards}
    given = PolicySettings(**policy)  # type: ignore[arg-type]
    learned = given.detector == detectors.LEARNED and not given.rank_by
    model = calibration.model if calibration is not None and learned else None
    key = keys.decision_key(SCORES, given, {})
    return choose(Storage(), scores, given, key=key, score_key=SCORES, fit_key="f", model=model)


def numbers(world: World, decision: Decision | None, storage: Storage | None = None) -> Numbers:
    return gather(world.layout, storage or Storage(), inventory_of(world), decision, SCORES, {}, Silent())


def test_the_learned_detector_is_shown_as_a_probability(world: World, calibration: Calibration) -> None:
    decision = decide(world, calibration, detector=detectors.LEARNED, drop=Decimal("0.1"))
    found = numbers(world, decision)
    every = tables(world).filter(pl.col("status") == "ok")
    sums = calibration.model.misalignment(every).astype(np.float32).astype(np.float64)
    expected = calibration.probability(sums).astype(np.float32)
    sketch = found.sketches[detectors.LEARNED]
    assert found.detector.name == detectors.LEARNED
    assert (sketch.smallest, sketch.largest) == (float(expected.min()), float(expected.max()))
    order = np.argsort(-sums, kind="stable")
    assert [pair.scores[detectors.LEARNED] for pair in found.sets["worst"]] == expected[order[:24]].tolist()
    assert [pair.ranks[detectors.LEARNED] for pair in found.sets["worst"]] == pytest.approx(np.arange(24) / len(every))
    bars, cut = found.histogram, found.line
    assert bars is not None
    assert cut == float(np.sort(expected)[::-1][found.cut - 1])
    place = bars.edges.index(cut)
    assert sum(bars.kept) + sum(bars.dropped) + bars.below + bars.above == len(every)
    assert sum(bars.dropped[place:]) + bars.above == found.cut == decision.n_dropped == 119
    assert sum(bars.kept[place:]) == sum(bars.dropped[:place]) == 0
    assert found.agreement is not None
    assert detectors.LEARNED in found.agreement.columns
    assert found.disagreements[0].first == detectors.LEARNED
    assert found.calibration == calibration
    assert calibration.key == calibration_key(SCORES, CANARIES, Choice())


def test_before_a_decision_the_learned_detector_is_one_of_the_scores(world: World, calibration: Calibration) -> None:
    found = numbers(world, None)
    assert (found.detector.name, found.line, found.calibration) == ("influence", None, calibration)
    assert found.sketches[detectors.LEARNED].count == found.ok == 1196
    assert len(found.sets["borderline"]) == 24
    ranks = [pair.ranks["influence"] for pair in found.sets["borderline"]]
    assert ranks == sorted(ranks)
    assert abs(ranks[12] - 0.05) < 1e-3


def test_without_its_calibration_the_learned_detector_is_shown_as_the_sum_it_is(
    world: World, calibration: Calibration, tmp_path: Path
) -> None:
    decision = decide(world, calibration, detector=detectors.LEARNED, drop=Decimal("0.1"))
    path = Path(world.layout.calibration(calibration.key))
    path.rename(tmp_path / "away")
    try:
        found = numbers(world, decision)
    finally:
        (tmp_path / "away").rename(path)
    assert (found.detector.name, found.line, found.calibration) == ("misalignment", decision.threshold, None)
    assert [pair.dropped for pair in found.sets["borderline"]] == [True] * 12 + [False] * 12
    assert found.facts("misalignment").higher_is_worse


def test_a_damaged_calibration_is_named(world: World, calibration: Calibration) -> None:
    path = Path(world.layout.calibration(calibration.key))
    whole = path.read_bytes()
    path.write_bytes(b"{}")
    try:
        with pytest.raises(InputError, match="calibration"):
            numbers(world, None)
    finally:
        path.write_bytes(whole)


def test_an_expression_ranks_the_gallery_and_makes_the_histogram(world: World) -> None:
    decision = decide(world, None, detector="clip_score", rank_by="neg_clip_loss + clip_score", drop=Decimal("0.2"))
    found = numbers(world, decision)
    every = tables(world).filter(pl.col("status") == "ok")
    ordered = np.sort((every["neg_clip_loss"].cast(pl.Float64) + every["clip_score"]).cast(pl.Float32).to_numpy())
    assert (found.detector.column, found.detector.title) == ("rank_by", "neg_clip_loss + clip_score")
    assert [pair.scores["rank_by"] for pair in found.sets["worst"]] == ordered[:24].tolist()
    assert found.line == decision.threshold == ordered[238]
    bars = found.histogram
    assert bars is not None
    place = bars.edges.index(found.line)
    assert sum(bars.dropped[:place]) + bars.below == 239


def test_a_control_is_seen_by_the_score_it_is_compared_with(world: World, calibration: Calibration) -> None:
    decision = decide(world, calibration, detector="clip_score", drop=Decimal("0.2"), control=3)
    found = numbers(world, decision)
    assert (found.detector.name, found.line, found.sets["borderline"]) == ("clip_score", None, [])
    bars = found.histogram
    assert bars is not None
    assert sum(bars.dropped) <= found.cut == 239
    assert 0.1 < np.mean([pair.dropped for pair in found.sets["worst"] + found.sets["best"]]) < 0.4


def test_a_cut_with_a_condition_counts_what_stays_beyond_it(world: World) -> None:
    decision = decide(world, None, detector="clip_score", threshold=0.25, where="influence < 0")
    found = numbers(world, decision)
    every = tables(world).filter(pl.col("status") == "ok")
    beyond, harmful = every["clip_score"] < 0.25, every["influence"] < 0
    bars = found.histogram
    assert bars is not None
    place = bars.edges.index(0.25)
    assert min(bars.kept) >= 0
    assert sum(bars.dropped[:place]) <= int((beyond & harmful).sum()) == found.cut
    assert sum(bars.kept[:place]) + sum(bars.dropped[:place]) + bars.below == int(beyond.sum())


@pytest.mark.parametrize("counted", [True, False])
def test_no_table_is_read_twice_and_no_canary_at_all(world: World, calibration: Calibration, counted: bool) -> None:
    policy = {"detector": "clip_score", "drop": Decimal("0.11" if counted else "0.12")}
    decision = decide(world, calibration, unscored="drop", **policy)
    listing = inventory_of(world)
    if counted:
        known = outcome.count(world.layout, Storage(), decision, listing.shards)
        Storage().publish_json(world.layout.outcome(decision.key), {"version": outcome.VERSION, **_plain(known)})
    storage = Watching()
    found = numbers(world, decision, storage)
    tables_read = [url for url in storage.read if url.endswith(".parquet") and url.startswith("scores/")]
    assert tables_read == [f"scores/{SCORES}/{shard.name}.parquet" for shard in listing.shards]
    assert not [url for url in storage.read if url.startswith("canary/")]
    assert found.outcome == outcome.count(world.layout, Storage(), decision, listing.shards)
    storage.read.clear()
    again = numbers(world, decision, storage)
    assert not [url for url in storage.read if url.startswith(("scores/0123456789ab/0", "canary/"))]
    assert (again.sets, again.agreement, again.disagreements) == (found.sets, found.agreement, found.disagreements)


def _plain(found: outcome.Outcome) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(found)


def test_groups_of_a_decision_are_named(world: World) -> None:
    decision = decide(world, None, detector="clip_score", drop=Decimal("0.1"), by="shard")
    found = numbers(world, decision)
    frame = {
        shard.name: pl.read_parquet(world.layout.scores(SCORES, shard.name)) for shard in inventory_of(world).shards
    }
    assert (found.line, found.detector.name) == (None, "clip_score")
    assert len({pair.group for pair in found.sets["random"]}) == 4
    for pair in found.sets["borderline"]:
        assert pair.group == pair.shard
        assert pair.dropped == dropped_mask(frame[pair.shard], decision)[pair.index]
