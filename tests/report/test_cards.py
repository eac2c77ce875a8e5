"""A pair is on the page once, says every set that it is in, and carries what the script filters and sorts by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ecif.report import cards
from ecif.report.gallery import Exhibit
from ecif.report.numbers import SETS, SPARED, Disagreement, Numbers, ScoredPair
from ecif.selection import Decision
from ecif.verdicts import DENIED, DUPLICATE, MERGED, OVERRIDE
from tests.conftest import MakeTar
from tests.report.pages import HOSTILE, Corpus, Page


@pytest.fixture
def corpus(tmp_path: Path, make_tar: MakeTar) -> Corpus:
    made = Corpus(tmp_path, make_tar)
    made.add("00", [float(i) for i in range(40)] + [None])
    return made


def pair(index: int, **facts: object) -> ScoredPair:
    key = f"00{index:04d}"
    score = float(index)
    given = {"scores": {"influence": score, "clip_score": -score}, "ranks": {"influence": index / 40}, "dropped": False}
    return ScoredPair(key, key, "00", index, **{**given, **facts})  # type: ignore[arg-type]


@pytest.fixture
def numbers(corpus: Corpus) -> Numbers:
    """Sets that overlap, two scores that disagree, groups and kinds of failure."""
    found = corpus.numbers()
    found.sets = {
        "worst": [pair(0, dropped=True), pair(1, dropped=True, reason=SPARED), pair(2)],
        "borderline": [pair(2), pair(3, group="de"), pair(4, group="")],
        "best": [pair(39, reason=DUPLICATE)],
        "random": [pair(39, reason=DUPLICATE), pair(5, group="<b>")],
        "unscored": [pair(40, status="no_caption", scores={"influence": None, "clip_score": None}, ranks={})],
    }
    found.disagreements = [Disagreement("influence", "clip_score", -0.5, [pair(0, dropped=True)], [pair(38)])]
    return found


def by_key(page: Page) -> dict[str, dict[str, str]]:
    return {card["data-key"]: card for card in page.cards()}


def test_a_pair_stands_once_with_all_of_its_sets(corpus: Corpus, numbers: Numbers) -> None:
    page = corpus.composed(None, numbers)
    assert [card["data-key"][-2:] for card in page.cards()] == ["00", "01", "02", "03", "04", "39", "05", "40", "38"]
    found = by_key(page)
    assert found["000000"]["data-sets"] == "worst first-0"
    assert found["000002"]["data-sets"] == "worst borderline"
    assert found["000039"]["data-sets"] == "best random"
    assert found["000038"]["data-sets"] == "second-0"
    assert "Borderline 1" in page.text("ul")
    assert "Bad by influence, good by clip_score 1" in page.text("ul")
    options = [text for path, text in page.texts if path[-2:] == ("label", "span")]
    assert options == ["All", "Most harmful", "Borderline", "Most valuable", "Random", "Without a score"]
    assert len(cards.pairs(numbers)) == 9


def test_scores_and_ranks_are_in_full_in_the_order_of_the_sort_control(corpus: Corpus, numbers: Numbers) -> None:
    numbers.sets["worst"][0] = replace(numbers.sets["worst"][0], scores={"influence": -1.25e-07, "clip_score": 0.1})
    page = corpus.composed(None, numbers)
    texts = [text for path, text in page.texts if path[-1] == "option"]
    assert texts[:3] == ["order of the page", "influence", "clip_score"]
    found = by_key(page)
    assert found["000000"]["data-scores"].startswith("-1.25e-07 0.1")
    assert found["000002"]["data-ranks"].startswith("0.05 -")
    assert found["000040"]["data-scores"].split() == ["-"] * len(found["000000"]["data-scores"].split())
    ends = [a["data-worse"] for tag, a in page.elements if tag == "option" and "data-worse" in a]
    assert ends[:2] == ["low", "low"]
    assert "5 %" in page.text("dd")


def test_groups_and_kinds_of_failure_are_numbers_so_that_no_name_can_be_hostile(
    corpus: Corpus, numbers: Numbers
) -> None:
    page = corpus.composed(None, numbers)
    found = by_key(page)
    assert [found[key]["data-group"] for key in ("000004", "000005", "000003", "000000")] == ["0", "1", "2", "3"]
    assert "group <b>" in page.text("ul")
    assert {found[key]["data-why"] for key in ("000000", "000002")} == {"0"}
    assert len({found[key]["data-why"] for key in ("000000", "000001", "000039", "000040")}) == 4
    whys = [text for path, text in page.texts if path[-1] == "option"]
    assert "duplicate: it has a better equal (1)" in whys
    assert "no_caption: no caption, or only white space (1)" in whys
    assert "<b> (1)" in whys


def test_a_corpus_of_failures_alone_says_which(corpus: Corpus, numbers: Numbers) -> None:
    numbers.sets = {name: [] for name in SETS} | {"unscored": [pair(40, status="no_caption", scores={}, ranks={})]}
    numbers.disagreements = []
    page = corpus.composed(None, numbers)
    assert "no_caption: no caption, or only white space" in page.text("ul")
    assert "the score alone" not in page.text()


@pytest.mark.parametrize(
    ("facts", "fate"),
    [
        ({}, "kept"),
        ({"dropped": True}, "quarantined"),
        ({"dropped": True, "reason": SPARED}, "kept"),
        ({"reason": OVERRIDE}, "quarantined"),
        ({"reason": DUPLICATE}, "quarantined"),
        ({"reason": DENIED + "key"}, "dropped"),
        ({"reason": MERGED}, "quarantined"),
        ({"status": "no_image"}, "dropped"),
        ({"status": "no_image", "reason": SPARED}, "kept"),
        ({"status": "no_image", "reason": "unscored:no_image"}, "dropped"),
    ],
)
def test_the_fate_is_that_of_the_verdict(corpus: Corpus, facts: dict[str, object], fate: str) -> None:
    decision: Decision = corpus.decide(drop_count=1, unscored="drop", dropped="quarantine")
    assert cards.fate(pair(0, **facts), decision) == fate
    assert cards.fate(pair(0, **facts), None) == ""


def test_the_caption_stands_for_the_picture() -> None:
    assert cards.alt(Exhibit(caption=" a  dog\n"), "x") == "a dog"
    assert cards.alt(Exhibit(caption=""), "Image of pair 7") == "Image of pair 7"
    long = cards.alt(Exhibit(caption="word " * 48, hidden=10), "x")
    assert long.endswith("word…")
    assert len(long) <= cards.ALT + 1
    assert cards.alt(Exhibit(caption="x" * 200), "x") == "x" * cards.ALT + "…"


def test_hostile_names_stay_in_their_attributes(corpus: Corpus, numbers: Numbers) -> None:
    numbers.sets["random"] = [pair(6, group=HOSTILE[1]), pair(7, group=HOSTILE[0])]
    numbers.sets["best"] = [replace(pair(8), key=HOSTILE[1], shard="00")]
    page = corpus.composed(None, numbers)
    assert {card["data-key"] for card in page.cards()} >= {HOSTILE[1]}
    assert {"script": 1}.items() <= {tag: [t for t, _ in page.elements].count(tag) for tag, _ in page.elements}.items()
    assert not [attributes for tag, attributes in page.elements if tag == "img" and attributes.get("src") == "x"]
