"""What the page says of canaries, agreement and parts is what the numbers say, and it says what they cannot show."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ecif import detectors
from ecif.calibration import state
from ecif.calibration.state import Calibration, Choice
from ecif.policy.guard import Outlier
from ecif.report import quality
from ecif.report.numbers import Agreement, Disagreement, Numbers
from ecif.stages.outcome import BINS, Outcome
from ecif.storage import Storage
from tests.calibration.world import CANARIES, build
from tests.calibration.world import SCORES as OF_WORLD
from tests.conftest import MakeTar
from tests.report.pages import HOSTILE, Corpus

AGREEMENT = Agreement(("influence", "clip_score"), 1234, 0.05, ((1.0, -0.25), (-0.25, 1.0)), ((1.0, 0.5), (0.4, 1.0)))


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    world = build(tmp_path_factory.mktemp("world"), shards=3, pairs=200)
    return state.calibrate(world.layout, Storage(), OF_WORLD, CANARIES, Choice(pairs=2_000))


@pytest.fixture
def corpus(tmp_path: Path, make_tar: MakeTar) -> Corpus:
    made = Corpus(tmp_path, make_tar)
    made.add("00", [float(i) for i in range(20)])
    return made


@pytest.fixture
def numbers(corpus: Corpus, calibration: Calibration) -> Numbers:
    found = corpus.numbers()
    found.calibration, found.agreement = calibration, AGREEMENT
    return found


def test_every_score_stands_with_every_kind_and_its_interval(calibration: Calibration) -> None:
    auroc, auprc = quality.measured(calibration, "clip_score")
    assert [name for name, _ in auroc.heads] == ["all kinds", *calibration.canaries]
    assert [name for name, _, _ in auroc.rows] == [*calibration.scores]
    assert [name for name, stands_out, _ in auroc.rows if stands_out] == ["clip_score"]
    for table, what in ((auroc, "auroc"), (auprc, "auprc")):
        for name, _, cells in table.rows:
            for cell, measure in zip(cells, calibration.measures[name].values(), strict=True):
                found = getattr(measure, what)
                assert cell.value == f"{found.value:.3f}"
                assert cell.interval == f"{found.low:.3f} to {found.high:.3f}"
                assert 0 <= cell.shade <= quality.STEPS


def test_this_cut_has_the_precision_and_recall_of_its_curve(corpus: Corpus, calibration: Calibration) -> None:
    decision = corpus.decide(detector="clip_score", threshold=0.2)
    rows = dict(quality.of_cut(calibration, decision))
    curve = calibration.curves["clip_score"]
    assert decision.threshold is not None
    precision = curve.precision(decision.threshold, calibration.share)
    assert rows["precision: of the pairs that go, natural mistakes"] == quality.share(precision)
    assert rows["recall: of the natural mistakes, those that go"] == quality.share(curve.recall(decision.threshold))
    assert {f"recall of {kind}" for kind in calibration.canaries} <= rows.keys()
    assert quality.of_cut(calibration, corpus.decide(drop_count=1, rank_by="influence * 2")) == []
    assert quality.of_cut(calibration, corpus.decide(drop_count=1, where="influence < 9")) == []
    control = quality.of_cut(calibration, corpus.decide(drop_count=1, control=1))
    assert [value for _, value in control] == [quality.share(calibration.share)]


def test_the_page_says_that_natural_mistakes_differ(corpus: Corpus, numbers: Numbers, calibration: Calibration) -> None:
    page = corpus.composed(corpus.decide(detector="clip_score", threshold=0.2), numbers)
    text = page.text("section")
    assert "Natural mistakes differ from planted ones." in text
    assert "may have learnt them by heart" in text
    assert f"{sum(calibration.canaries.values())} planted mistakes" in text
    rows = page.rows()
    assert rows["like the mean of all kinds"] == quality.share(calibration.share)
    assert detectors.LEARNED in rows
    captions = page.text("caption")
    assert "AUROC: the chance" in captions
    assert "Estimates for this cut" in captions
    assert "Planted mistakes" in page.text("nav")


def test_without_canaries_or_a_second_score_the_sections_are_not_there(corpus: Corpus) -> None:
    numbers = corpus.numbers()
    numbers.calibration, numbers.agreement, numbers.disagreements = None, None, []
    page = corpus.composed(None, numbers)
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert not {"calibration", "agreement"} & ids
    assert "pairs" in ids


def test_agreement_is_a_table_whose_shades_follow_its_numbers(corpus: Corpus, numbers: Numbers) -> None:
    spearman, overlap = quality.agreement(AGREEMENT)
    assert [cell.value for cell in spearman.rows[0][2]] == ["–", "\u22120.25"]
    assert [cell.value for cell in overlap.rows[1][2]] == ["40 %", "–"]
    assert [cell.shade for cell in overlap.rows[1][2]] == [4, 0]
    assert "worst 5 % by the score of the row" in overlap.caption
    nothing = Agreement(("a", "b"), 1, 0.05, ((1.0, math.nan), (math.nan, 1.0)), ((1.0, 0.0), (0.0, 1.0)))
    assert [cell.value for cell in quality.agreement(nothing)[0].rows[0][2]] == ["–", "–"]
    first, last = numbers.sets["worst"][0], numbers.sets["best"][0]
    numbers.disagreements = [Disagreement("influence", "clip_score", -0.25, [first], [last])]
    page = corpus.composed(None, numbers)
    assert "From 1,234 pairs drawn at random" in page.text("p")
    assert "Rank correlation −0.25." in page.text("p")
    links = [a["href"] for tag, a in page.elements if tag == "a" and str(a.get("href")).startswith("#pair-")]
    ids = {card["id"]: card["data-key"] for card in page.cards()}
    assert [ids[str(link)[1:]] for link in links] == [first.key, last.key]


def test_parts_and_outliers_are_listed_and_hostile_names_are_text(corpus: Corpus, numbers: Numbers) -> None:
    numbers.outcome = Outcome(
        decision_key="d",
        shards=3,
        pairs=300,
        kept=200,
        dropped=90,
        quarantined=10,
        reasons={"policy": 90, "unscored:no_image": 10},
        bytes=1,
        bytes_gone=1,
        rates=[1] * BINS,
        top_shards=[(HOSTILE[1], 100, 60), (None, 10, 1)],
        by="language",
        n_groups=7,
        groups=[("de", 50, 5), (None, 20, 2)],
        outliers=[Outlier("shard", HOSTILE[0], 100, 60, 0.1)],
        n_outliers=4,
        elsewhere=12,
    )
    page = corpus.composed(corpus.decide(drop_count=1), numbers)
    rows = page.rows()
    assert rows[HOSTILE[1]] == "60 100 60 %"
    assert rows["no name"] == "1 10 10 %"
    assert rows["de"] == "5 50 10 %"
    assert rows["no value"] == "2 20 10 %"
    assert rows["unscored:no_image"] == "10 10 %"
    assert HOSTILE[0] in page.text("ul")
    assert "and 3 more" in page.text("ul")
    assert "12 pairs are of groups without a cut" in page.text("p")
    assert "The largest of 7 groups." in page.text("p")
    assert "By language" in page.text("h3")
