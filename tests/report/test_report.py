"""The page as a browser gets it: whole, self-contained, safe, and saying what is on disk."""

from __future__ import annotations

import base64
import hashlib
import io
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecif import inventory, manifest
from ecif.errors import InputError
from ecif.manifest import Manifest
from ecif.report import build_report
from ecif.shards.decode import STATUSES
from ecif.sources import expand
from ecif.storage import FileInfo
from tests.conftest import MakeTar
from tests.report.pages import FIT, HOSTILE, SCORES, Corpus, Page


@pytest.fixture
def corpus(tmp_path: Path, make_tar: MakeTar) -> Corpus:
    return Corpus(tmp_path, make_tar)


def test_a_finished_run(corpus: Corpus) -> None:
    corpus.add("00", [float(i) for i in range(-10, 50)])
    corpus.add("01", [float(i) for i in range(-5, 45)] + [None] * 10)
    decision = corpus.decide(drop=Decimal("0.1"), unscored="quarantine")
    corpus.write(decision, "00", "01")
    page = corpus.page(decision)
    text = page.text()

    assert page.text("h1") == "11 of 120 pairs dropped, 10 quarantined, 99 kept"
    assert "Pairs read 120 in 2 shards Kept 99 82.5 % Dropped 11 9.2 %, 10 % of the scored" in text
    assert "Quarantined 10 8.3 % Without a score 10 8.3 %, quarantined Shards written 2 of 2" in text
    assert "predicted change of the validation loss when the pair is removed" in text
    assert "Negative: removal helps" in text
    assert "No shard failed or is missing." in text
    rows = page.rows()
    assert rows["ok"] == f"110 {STATUSES['ok']} 99 kept, 11 dropped"
    assert rows["no_caption"] == f"10 {STATUSES['no_caption']} quarantined"
    assert rows["--drop"] == "0.1"
    assert rows["--batch-size"].startswith("512 ")
    assert rows["torch"] == "9.8.7"
    assert rows["N_fit"] == "4321"
    assert rows["key of the decision"] == decision.key
    assert rows["00"] == "8 60 13.3 %"
    assert rows["01"] == "13 60 21.7 %"


def test_it_stands_alone_and_runs_only_its_own_script(corpus: Corpus) -> None:
    corpus.add("00", [0.1 * i for i in range(len(HOSTILE))], HOSTILE)
    page = corpus.page()
    tags = [tag for tag, _ in page.elements]
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {*tags}
    assert (tags.count("script"), tags.count("style")) == (1, 1)
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name != "style", tag  # the policy would not apply it
            if name in {"href", "src", "action", "xlink:href"}:
                assert value is not None
                assert value.startswith(("#", "data:image/")), value
    for never in ("@import", "url("):
        assert never not in page.source("style")


def test_the_policy_names_the_script_and_the_style_sheet_by_their_sha256(corpus: Corpus) -> None:
    corpus.add("00", [0.1 * i for i in range(len(HOSTILE))], HOSTILE)
    page = corpus.page()
    script, style = (
        base64.b64encode(hashlib.sha256(page.source(tag).encode()).digest()).decode() for tag in ("script", "style")
    )
    policies = [a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [
        f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
        "base-uri 'none'; form-action 'none'"
    ]


def test_the_script_never_makes_markup_or_code_of_text(corpus: Corpus) -> None:
    corpus.add("00", [1.0])
    script = corpus.page().source("script")
    for never in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "http", "fetch("):
        assert never not in script


def test_hostile_captions_come_out_as_text(corpus: Corpus) -> None:
    corpus.add("00", [0.1 * i for i in range(len(HOSTILE))], HOSTILE)
    page = corpus.page()
    text = page.text("li")
    for caption in HOSTILE[:5]:
        assert " ".join(caption.split()) in text
    assert "a\ufffdb\ufffdc" in text
    assert "</p></li></ol>&amp;" in text
    assert "[9,760 more characters]" in text
    captions = [
        attributes for tag, attributes in page.elements if tag == "p" and "words" in (attributes.get("class") or "")
    ]
    assert len(captions) == len(HOSTILE)
    assert all(attributes["dir"] == "auto" for attributes in captions)


def test_the_gallery_shows_both_ends_in_order_with_pictures(corpus: Corpus) -> None:
    corpus.add("00", [float(i) for i in range(100)])
    corpus.add("01", [float(i) - 0.5 for i in range(100)])
    decision = corpus.decide(drop_count=3)
    page = corpus.page(decision)
    worst = [f"{'10'[i % 2]:0>2}{i // 2:04d}" for i in range(24)]
    assert [card["data-key"] for card in page.cards("worst")] == worst
    assert [card["data-key"] for card in page.cards("best")][:2] == ["000099", "010099"]
    assert [card["data-fate"] for card in page.cards("worst")] == ["dropped"] * 3 + ["kept"] * 21
    cards = page.cards()
    assert len({card["data-entry"] for card in cards}) == len(cards) >= 48
    badges = [text for path, text in page.texts if path[-1] == "span" and text in ("dropped", "kept")]
    assert badges == [card["data-fate"] for card in cards]
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(pictures) == len(cards)
    assert pictures[0]["alt"] == "caption 01-0"
    for attributes in pictures:
        head, _, data = (attributes["src"] or "").partition(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.size == (200, 100)


def test_small_pictures_are_kept_exactly(corpus: Corpus) -> None:
    target = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").save(target, "PNG")
    corpus.add("00", [1.0], images=[target.getvalue()])
    (attributes,) = (attributes for tag, attributes in corpus.page().elements if tag == "img")
    head, _, data = (attributes["src"] or "").partition(",")
    assert head == "data:image/png;base64"
    assert attributes["class"] == "tiny"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert np.array_equal(np.asarray(image), pixels[..., :3])


def test_a_small_corpus_is_split_in_the_middle(corpus: Corpus) -> None:
    corpus.add("00", [3.0, 1.0, 2.0])
    shown = [text for path, text in corpus.page().texts if path[-2:] == ("li", "p")]
    assert shown == ["caption 00-1", "caption 00-2", "caption 00-0"]


def test_before_any_decision(corpus: Corpus) -> None:
    corpus.add("00", [1.0, -1.0, None])
    page = corpus.page()
    assert page.text("h1") == "2 of 3 pairs scored, nothing decided yet"
    assert "To decide, run ecif plan" in page.text()
    assert page.rows()["no_caption"].endswith("to be decided")
    assert "dropped" not in page.text("li")
    assert not any(attributes.get("class") == "cut" for _, attributes in page.elements)


def test_an_empty_corpus(corpus: Corpus) -> None:
    corpus.add("00", [])
    page = corpus.page()
    assert page.text("h1") == "No pairs were found"
    assert "No pair has a score" in page.text()
    assert not {"svg", "img"} & {tag for tag, _ in page.elements}
    decision = corpus.decide(drop=Decimal(1))
    corpus.write(decision, "00")
    assert corpus.page(decision).text("h1") == "No pairs were found"


def test_nothing_could_be_scored(corpus: Corpus) -> None:
    corpus.add("00", [None, None])
    decision = corpus.decide(drop=Decimal("0.5"))
    corpus.write(decision, "00")
    page = corpus.page(decision)
    assert page.text("h1") == "All 2 pairs kept"
    assert page.rows()["no_caption"] == f"2 {STATUSES['no_caption']} kept"


def test_shards_that_failed_are_listed_with_their_reasons(corpus: Corpus) -> None:
    corpus.add("00", [1.0, 2.0])
    corpus.add("01", [1.0], scored=False)
    corpus.add("02", [1.0], scored=False)
    corpus.add("03", [1.0])
    decision = corpus.decide(drop_count=1)
    corpus.write(decision, "00")
    reason = "in/01.tar, member 'a.jpg', offset 512: cut <short>"
    page = corpus.page(decision, failed={"01": reason})
    rows = page.rows()
    assert rows["01"] == reason
    assert rows["02"] == "no scores: scoring failed or has not run"
    assert rows["03"] == "scored, but not written yet"
    assert "2 of 4 shards have no scores" in page.text()
    assert "1 of 2 scored shards are written so far" in page.text()
    assert page.text("h1") == "1 of 3 pairs to drop, 2 to keep"


def test_gaps_of_ranges_are_listed(corpus: Corpus) -> None:
    corpus.add("00", [1.0])
    corpus.add("02", [1.0])
    source = str(corpus.folder / "in" / "{00..02}.tar")
    inventory.take(expand([source], corpus.storage), corpus.layout, corpus.storage, {})
    gap = str(corpus.folder / "in" / "01.tar")
    assert corpus.page().rows()[gap] == "named in a range, but it does not exist"


def test_rows_that_do_not_match_the_samples_are_named(corpus: Corpus) -> None:
    corpus.add("00", [1.0, 2.0])
    (corpus.folder / "in" / "00.tar").write_bytes(corpus.make_tar(3))
    assert corpus.page().rows()["00"] == "2 rows of scores for 3 samples"


def test_manifests_that_disagree_with_scores_are_pointed_out(corpus: Corpus) -> None:
    corpus.add("00", [1.0, 2.0, 3.0])
    decision = corpus.decide(drop_count=1)
    entry = Manifest("00", FileInfo("u", 1, "e"), 3, 3, 0, 0, 0, {}, {}, FIT, SCORES, decision.key, 1)
    manifest.write(entry, corpus.layout, corpus.storage)
    assert "The manifests count 3 kept, 0 dropped and 0 quarantined" in corpus.page(decision).text()


def test_arrivals_say_what_the_cut_drops_now(corpus: Corpus) -> None:
    corpus.add("00", [float(i) for i in range(10)])
    decision = corpus.decide(drop=Decimal("0.1"))
    corpus.add("01", [-1.0] * 10)
    corpus.write(decision, "00", "01")
    text = corpus.page(decision).text()
    assert (
        "made from 1 shard and holds for the 1 that arrived since: it dropped 10 % of the scored pairs then, 55 % now"
        in text
    )


def test_input_that_is_gone_or_changed_is_said_in_the_gallery(corpus: Corpus) -> None:
    corpus.add("00", [1.0, 2.0])
    corpus.add("01", [3.0, 4.0])
    corpus.add("02", [5.0], images=[b"no image"])
    corpus.add("03", [6.0, 7.0])
    taken = corpus.inventory()
    source = corpus.folder / "in"
    (source / "00.tar").unlink()
    (source / "01.tar").write_bytes(corpus.make_tar(1))
    (source / "03.tar").write_bytes((source / "03.tar").read_bytes()[:1500])
    page = Page(build_report(corpus.layout, corpus.storage, taken, None, SCORES))
    text = page.text("li")
    assert text.count("the input cannot be read any more") == 4
    assert "the input has changed: sample 0 is now 000000000" in text
    assert "not found in the input shard any more" in text
    assert "cannot be shown: no image can be read" in text
    assert "caption 02-0" in text
    assert "img" not in {tag for tag, _ in page.elements}


def test_another_detector_is_named_and_ranks(corpus: Corpus) -> None:
    corpus.add("00", [1.0, 2.0, 3.0, 4.0])
    decision = corpus.decide(detector="clip_score", threshold=-2.5)
    corpus.write(decision, "00")
    page = corpus.page(decision)
    assert "The worst by clip_score" in page.text("dl")
    keys = [card["data-key"] for name in ("worst", "best") for card in page.cards(name)]
    assert keys == ["000003", "000002", "000000", "000001"]
    assert page.text("h1") == "2 of 4 pairs dropped, 2 kept"
    assert "cut \u22122.50, 2 dropped" in page.text("svg")


def test_a_control_says_that_it_is_one(corpus: Corpus) -> None:
    corpus.add("00", [1.0, 2.0, 3.0, 4.0])
    assert "This is a control" in corpus.page(corpus.decide(drop_count=2, control=1)).text("section")
    assert "This is a control" not in corpus.page(corpus.decide(drop_count=2)).text("section")


def test_the_drawing_says_what_it_shows_and_fits_both_screens(corpus: Corpus) -> None:
    corpus.add("00", [1e-6 * i for i in range(-50, 50)])
    page = corpus.page(corpus.decide(drop=Decimal("0.1")))
    drawings = [attributes for tag, attributes in page.elements if tag == "svg" and "role" in attributes]
    assert [attributes["role"] for attributes in drawings][:2] == ["img", "img"]
    assert page.text("svg").count("Histogram of influence for 100 pairs: from \u22125.00") == 2
    assert "influence \u00d7 10⁻⁵" in page.text("svg")
    assert "← removal helps" in page.text("svg")


def test_the_same_output_gives_the_same_page(corpus: Corpus) -> None:
    corpus.add("00", [1.0, 2.0, -3.0])
    corpus.add("01", [1.0, 2.0, -3.0])
    taken, decision = corpus.inventory(), corpus.decide(drop_count=2)
    pages = {build_report(corpus.layout, corpus.storage, taken, decision, SCORES) for _ in range(2)}
    assert len(pages) == 1


def test_a_score_that_is_no_number_is_not_drawn_over(corpus: Corpus) -> None:
    corpus.add("00", [1.0, float("nan")], statuses=["ok", "ok"])
    with pytest.raises(InputError, match=r"00\.parquet: row 1"):
        corpus.page()


def test_the_histogram_counts_every_pair_once_and_splits_at_the_cut(corpus: Corpus) -> None:
    random = np.random.default_rng(0)
    for name in ("00", "01"):
        corpus.add(name, (random.standard_cauchy(500) * 1e-6).astype(np.float32).tolist(), images=[b""] * 500)
    decision = corpus.decide(drop=Decimal("0.1"))
    numbers = corpus.numbers(decision)
    bars = numbers.histogram
    assert bars is not None
    assert sum(bars.kept) + sum(bars.dropped) + bars.below + bars.above == 1_000
    assert bars.below > 0
    assert decision.threshold in bars.edges
    cut = bars.edges.index(decision.threshold)
    assert sum(bars.dropped[:cut]) + bars.below == numbers.cut == 100
    assert sum(bars.kept[:cut]) == sum(bars.dropped[cut:]) == 0
