"""The page of a trace as a browser gets it: whole, self-contained, safe, and saying what was found."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ecif import inventory
from ecif.report.gallery import Exhibit, exhibit
from ecif.report.trace import SHOWN, build_trace_page, headline, pictures
from ecif.run import Run
from ecif.settings import Settings
from ecif.sources import expand
from ecif.stages.cases import Asked, Case
from ecif.stages.loop import Failure
from ecif.stages.trace import Contribution, Options, Traced
from tests.conftest import MakeTar
from tests.report.pages import HOSTILE, Corpus, Page, picture

WRONG = Asked(Case("cat.jpg", picture(1), "a cat"), 1.25, {"w": torch.ones(2)}, 3, 10, "a dog", "candidates")
RIGHT = Asked(Case("dog.jpg", picture(2), "a dog"), 0.5, {"w": torch.ones(2)}, 1, 40, "a dog", "validation")
OPTIONS = Options(12, "influence", 16)


def contribution(index: int, influence: float, shard: str = "00") -> Contribution:
    key = f"{shard}{index:04d}"
    return Contribution(shard, index, key, key, 0.25, influence, influence, 0.0, 0.125, 0.025, 2 * influence, None)


@pytest.fixture
def run(tmp_path: Path, make_tar: MakeTar) -> Run:
    corpus = Corpus(tmp_path, make_tar)
    corpus.add("00", [0.0] * 40, scored=False)
    corpus.add("01", [0.0] * len(HOSTILE), HOSTILE, scored=False)
    expansion = expand([str(tmp_path / "in")], corpus.storage)
    taken = inventory.take(expansion, corpus.layout, corpus.storage, {})
    settings = Settings(model="ViT-B-32", pretrained="laion", out=str(tmp_path / "out"))
    return Run(settings, corpus.layout, corpus.storage, taken, (), "f" * 12, "5" * 12)


def traced(responsible: int = 3, supporting: int = 2, cases: int = 1) -> Traced:
    found = Traced({}, False, 42)
    for n in range(cases):
        found.found[n, "responsible"] = [contribution(i, -0.5 + i / 100) for i in range(responsible)]
        found.found[n, "supporting"] = [contribution(39 - i, 0.5 - i / 100) for i in range(supporting)]
    return found


def page(run: Run, asked: list[Asked], found: Traced, options: Options = OPTIONS, notes: tuple[str, ...] = ()) -> Page:
    return Page(build_trace_page(run, "abc", asked, found, options, pictures(run, found), notes))


def test_it_says_what_was_asked_and_what_was_found(run: Run) -> None:
    made = page(run, [WRONG], traced())
    assert made.text("h1") == "The model answers “a dog”, not “a cat”"
    assert "Traced through 42 pairs of 2 shards." in made.text("header")
    rows = made.rows()
    assert rows["Right caption"] == "a cat"
    assert rows["The model's answer"] == "a dog"
    assert rows["Rank of the right caption"] == "3 of 10 candidates"
    assert rows["Loss that is traced"] == "1.250"
    assert rows["key of the fit"] == "f" * 12
    assert "Asked about" not in rows
    captions = [text for path, text in made.texts if path[-2:] == ("li", "p")]
    assert captions == ["caption 00-0", "caption 00-1", "caption 00-2", "caption 00-39", "caption 00-38"]
    cards = made.text("li")
    assert "influence \u22120.500 relative-IS 0.12 clip_score 0.250" in cards
    assert "influence +0.500" in cards
    assert "theta-RelatIF" not in cards
    assert "with a standard error of 20 % of its value" in made.text("section")
    images = [attributes for tag, attributes in made.elements if tag == "img"]
    assert len(images) == 6
    assert images[0]["alt"] == "Test image: a cat"
    assert images[1]["alt"] == "caption 00-0"
    assert not [tag for tag, _ in made.elements if tag == "nav"]


def test_several_cases_have_a_way_to_each(run: Run) -> None:
    asked_about = replace(WRONG, case=replace(WRONG.case, mistaken="a frog"))
    made = page(run, [asked_about, RIGHT], traced(cases=2))
    assert made.text("h1") == "2 test pairs traced, 1 of them answered wrongly"
    anchors = {attributes.get("id") for tag, attributes in made.elements if tag == "section"}
    links = [attributes["href"] for tag, attributes in made.elements if tag == "a"]
    assert links == ["#main", "#case-1", "#case-2", "#reading"]
    assert {str(link)[1:] for link in links[1:]} <= anchors
    texts = made.text("td")
    assert "a frog" in texts
    assert "1 of 40 captions of the validation batch" in texts
    assert "a dog (right)" in texts


def test_it_stands_alone_and_runs_only_its_own_script(run: Run) -> None:
    made = page(run, [WRONG], traced())
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in made.elements}
    for tag, attributes in made.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name != "style", tag
            if name in {"href", "src"}:
                assert str(value).startswith(("#", "data:image/")), value
    script = base64.b64encode(hashlib.sha256(made.source("script").encode()).digest()).decode()
    (policy,) = (str(a["content"]) for _, a in made.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert f"script-src 'sha256-{script}';" in policy
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in policy
    assert "prefers-color-scheme: dark" in made.source("style")
    assert "reviewing" not in made.source("script")


def test_cards_carry_what_the_script_sorts_and_filters_by(run: Run) -> None:
    made = page(run, [WRONG], traced(responsible=2, supporting=1), Options(12, "theta-relative", 16))
    assert [card["data-sets"] for card in made.cards()] == ["responsible", "responsible", "supporting"]
    assert made.cards()[0]["data-scores"].split() == ["-0.5", "0.125", "-1.0", "0.25"]
    columns = [text for path, text in made.texts if path[-2:] == ("select", "option")][1:5]
    assert columns == ["influence", "relative-IS", "theta-RelatIF", "clip_score"]


def test_hostile_text_comes_out_as_text(run: Run) -> None:
    found = Traced({(0, "responsible"): [contribution(i, -1.0, "01") for i in range(len(HOSTILE))]}, False, 8)
    found.found[0, "supporting"] = []
    hostile = replace(WRONG, case=Case(HOSTILE[1], picture(1), HOSTILE[0]), answer=HOSTILE[2])
    made = page(run, [hostile], found, notes=(HOSTILE[0],))
    for place in (made.text("h1"), made.text("ul"), made.text("td"), made.text("li")):
        assert HOSTILE[0] in place
    assert HOSTILE[1] in made.text("h2")
    assert HOSTILE[2] in made.text("td")
    assert "a\ufffdb\ufffdc" in made.text("li")
    assert "[9,760 more characters]" in made.text("li")


def test_long_captions_are_cut_in_the_headline() -> None:
    assert headline([replace(RIGHT, answer="x" * 100)]) == f"The model answers “{'x' * 60}…”, as it should"


def test_the_page_shows_a_few_and_names_the_table(run: Run) -> None:
    made = page(run, [WRONG], traced(responsible=30, supporting=0))
    assert len([1 for path, text in made.texts if path[-2:] == ("li", "p")]) == SHOWN
    assert "The first 24 of 30; the table has all." in made.text("section")
    assert "There are none." in made.text("section")
    assert run.layout.trace("abc") in made.text("footer")


def test_what_it_is_ranked_by_stands_on_the_cards(run: Run) -> None:
    made = page(run, [WRONG], traced(), Options(12, "theta-relative", 16))
    assert "theta-RelatIF \u22121.00" in made.text("li")
    assert "per length of the parameters' move first" in made.text("section")
    without = traced()
    without.found = {
        place: [replace(c, relative=None, relative_se=None, theta_relative=None) for c in side]
        for place, side in without.found.items()
    }
    made = page(run, [WRONG], without, Options(12, "influence", 0))
    assert "relative-IS" not in made.text("li")
    assert made.rows()["Computed from"] == "one pass of the model over the corpus"


def test_stored_gradients_failed_shards_and_lost_inputs_are_said(run: Run) -> None:
    found = traced()
    found.by_index = True
    found.failed = (Failure("01", ValueError("x")),)
    (Path(run.inventory.shards[0].url)).unlink()
    made = page(run, [WRONG], found)
    assert "1 shard could not be read" in made.text("ul")
    assert "stored with the scores" in made.rows()["Computed from"]
    assert made.text("li").count("the input cannot be read any more") == 5
    assert exhibit(b"no image", "text") == Exhibit(caption="text", trouble=exhibit(b"no image", "text").trouble)
