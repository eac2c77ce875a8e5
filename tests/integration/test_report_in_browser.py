"""The report in a real browser: it asks nobody for anything, and shows hostile text as text.

The output comes from the real pipeline, with canaries and a decision, over a corpus in which one shard is hostile.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from ecif.report import build_report
from tests.conftest import MakeTar
from tests.integration.browser import CONTRAST, PAGE, SMALL, WIDE, keys, opened, verdicts
from tests.integration.hostile import CAPTIONS
from tests.report.pages import SCORES, Corpus

pytestmark = pytest.mark.integration


def scores(page: Page) -> dict[str, float]:
    """The first score by key."""
    found: dict[str, float] = page.eval_on_selector_all(
        "#cards > li",
        "cards => Object.fromEntries(cards.map(c => [c.dataset.key, Number(c.dataset.scores.split(' ')[0])]))",
    )
    return found


def test_hostile_captions_and_names_are_text(report_output: Path, chromium: Browser) -> None:
    with opened(chromium, report_output / PAGE) as page:
        assert page.locator("script").count() == 1
        shown = "\n".join(page.locator("#cards .words").all_text_contents())
        for key, caption in CAPTIONS.items():
            assert caption[:100] in shown, key
        assert set(CAPTIONS) <= {*page.eval_on_selector_all("#cards > li", "cards => cards.map(c => c.dataset.key)")}
        assert page.eval_on_selector_all("img", "images => images.every(i => i.src.startsWith('data:image/'))")
        assert page.evaluate("document.querySelectorAll('[onerror], [onclick], iframe, object').length") == 0


def test_a_script_that_is_not_ours_does_not_run_even_where_it_gets_in(
    report_output: Path, chromium: Browser, tmp_path: Path
) -> None:
    """The second line of defence: what would happen if text were not escaped somewhere."""
    text = (report_output / PAGE).read_text("utf-8")
    evil = '<script>document.title = "taken"</script><img src="data:," onerror="document.title = 1">'
    evil += '<style>h1 { display: none }</style><form action="http://127.0.0.1:9/"></form>'
    (tmp_path / "page.html").write_text(text.replace("</h1>", "</h1>" + evil), "utf-8")
    profile = chromium.new_context()
    page = profile.new_page()
    requests: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto((tmp_path / "page.html").as_uri())
    assert "ECIF report" in page.title()
    assert page.locator("h1").is_visible()
    page.evaluate("document.forms[0].submit()")
    page.wait_for_timeout(300)
    assert sum("Content Security Policy" in text for text in said) >= 4
    assert not [url for url in requests if url.startswith("http")]
    profile.close()


def test_filters(report_output: Path, chromium: Browser) -> None:
    with opened(chromium, report_output / PAGE) as page:
        every = keys(page)
        assert len(every) == page.locator("#cards > li").count() > 30
        expect(page.locator("#count")).to_have_text(f"{len(every)} of {len(every)} pairs shown")
        page.check("input[name=set][value=worst]", force=True)
        value = scores(page)
        worst = keys(page)
        assert [value[key] for key in worst] == sorted(value[key] for key in worst)
        assert 0 < len(worst) < len(every)
        page.fill("#search", "RED squ")
        assert keys(page) == [
            key for key in worst if "a red square" in page.locator(f'[data-key="{key}"] .words').inner_text()
        ]
        page.click("#reset")
        assert keys(page) == every
        page.fill("#search", "alert(1)")
        assert keys(page) == ["script"]
        page.fill("#search", 'a,"b"')
        assert keys(page) == ['a,"b"\'c']
        page.fill("#search", "no such words at all")
        expect(page.locator("#nothing")).to_be_visible()
        page.click("#reset")

        page.click("#further summary")
        page.select_option("#fate", "dropped")
        assert set(keys(page)) == {
            *page.eval_on_selector_all("[data-fate=dropped]", "cards => cards.map(c => c.dataset.key)")
        }
        page.select_option("#fate", "")
        for label, expected in (("no_caption", "bare"), ("undecodable_image", "broken")):
            option = page.locator("#why option", has_text=label)
            page.select_option("#why", option.get_attribute("value"))
            assert keys(page) == [expected]
        page.select_option("#why", "")
        page.select_option("#ranked", "0")
        page.fill("#from", "10")
        page.fill("#to", "30")
        ranks = page.eval_on_selector_all(
            "#cards > li",
            "cards => cards.filter(c => c.checkVisibility()).map(c => 100 * c.dataset.ranks.split(' ')[0])",
        )
        assert ranks
        assert all(10 <= rank <= 30 for rank in ranks)


def test_sorting_by_any_score(report_output: Path, chromium: Browser) -> None:
    with opened(chromium, report_output / PAGE) as page:
        value = {key: score for key, score in scores(page).items() if score == score}
        page.select_option("#sort", "0")
        worst_first = keys(page)
        assert [value[key] for key in worst_first[: len(value)]] == sorted(value.values())
        assert set(worst_first[len(value) :]) == {"bare", "broken"}
        page.select_option("#direction", "best")
        assert [value[key] for key in keys(page)[: len(value)]] == sorted(value.values(), reverse=True)
        page.select_option("#sort", "")
        assert keys(page) == page.eval_on_selector_all(
            "#cards > li", "cards => cards.toSorted((a, b) => a.id.slice(5) - b.id.slice(5)).map(c => c.dataset.key)"
        )


def test_disagreements_lead_to_their_pairs(report_output: Path, chromium: Browser) -> None:
    with opened(chromium, report_output / PAGE) as page:
        link = page.locator("a[data-show]").first
        name = link.get_attribute("data-show")
        link.click()
        assert len(keys(page)) == page.locator(f'#cards > li[data-sets~="{name}"]').count() > 0
        page.fill("#search", "nothing like this")
        page.locator(".strip a").first.click()
        target = page.locator(".strip a").first.get_attribute("href")
        expect(page.locator(f"{target}")).to_be_in_viewport()


def test_enlarging_by_mouse_and_keyboard(report_output: Path, chromium: Browser) -> None:
    with opened(chromium, report_output / PAGE) as page:
        order = keys(page)
        page.locator("#cards .open").nth(1).click()
        dialog = page.locator("#zoom")
        expect(dialog).to_be_visible()
        expect(page.locator("#zoom-place")).to_have_text(f"2 of {len(order)}")
        expect(dialog.locator(".where")).to_contain_text(order[1])
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowLeft")
        expect(dialog.locator(".where")).to_contain_text(order[2])
        small = page.locator("#cards img").nth(2).bounding_box()
        large = dialog.locator("img").bounding_box()
        assert small is not None
        assert large is not None
        assert large["height"] > 2 * small["height"]
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        assert page.evaluate("document.activeElement.closest('li').dataset.key") == order[2]
        page.keyboard.press("Enter")
        expect(dialog).to_be_visible()
        page.click("#zoom-close")
        expect(dialog).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_of_every_text_on_the_page(report_output: Path, chromium: Browser, scheme: str) -> None:
    with opened(chromium, report_output / PAGE, color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.click("#review")
        page.keyboard.press("k")
        page.keyboard.press("d")
        for _ in range(2):
            found = page.evaluate(CONTRAST)
            assert found["seen"] > 300
            assert found["poor"] == []
            page.keyboard.press("z")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == (scheme == "dark")


def test_a_phone_shows_all_of_it_without_scrolling_sideways(report_output: Path, chromium: Browser) -> None:
    with opened(chromium, report_output / PAGE, phone=True) as page:
        for step in ("", "details", "#review", "#cards .open"):
            if step == "details":
                page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            elif step:
                page.locator(step).first.tap()
            assert page.evaluate("document.documentElement.scrollWidth") == 360, step
            assert page.evaluate(WIDE) == [], step
            assert page.evaluate(SMALL) == [], step
        page.locator("#zoom #drop").tap()
        page.locator("#zoom-close").tap()
        assert [*verdicts(page).values()] == ["drop"]


def test_without_script_everything_is_there(report_output: Path, chromium: Browser) -> None:
    with opened(chromium, report_output / PAGE, java_script_enabled=False) as page:
        cards = page.locator("#cards > li")
        assert cards.count() > 30
        assert all(card.is_visible() for card in cards.all())
        expect(page.locator("#tools")).to_be_hidden()
        expect(page.locator("noscript")).to_be_visible()
        expect(page.locator("#settings")).to_be_visible()


def test_print_shows_pairs_and_no_controls(report_output: Path, chromium: Browser) -> None:
    with opened(chromium, report_output / PAGE) as page:
        page.click("#review")
        page.emulate_media(media="print")
        for control in ("#tools", "#panel", "#bar", "nav", ".open"):
            expect(page.locator(control).first).to_be_hidden()
        expect(page.locator("#cards > li").first).to_be_visible()
        assert page.pdf().startswith(b"%PDF")


def test_two_hundred_pictures_of_noise_are_less_than_20_megabytes(
    chromium: Browser, tmp_path: Path, make_tar: MakeTar
) -> None:
    corpus = Corpus(tmp_path, make_tar)
    random = np.random.default_rng(0)

    def noise() -> bytes:
        target = io.BytesIO()
        Image.fromarray(random.integers(0, 255, (400, 400, 3), dtype=np.uint8)).save(target, "JPEG", quality=90)
        return target.getvalue()

    corpus.add("00", random.normal(size=240).tolist(), images=[noise() for _ in range(240)])
    data = build_report(corpus.layout, corpus.storage, corpus.inventory(), None, SCORES, shown=100)
    assert len(data) < 20_000_000
    target = tmp_path / "page.html"
    target.write_bytes(data)
    with opened(chromium, target) as page:
        assert page.locator("#cards > li").count() >= 200
        loaded = page.eval_on_selector_all(
            "#cards img", "images => images.every(i => i.complete && i.naturalWidth >= 96)"
        )
        assert loaded


def test_the_page_of_a_trace(report_output: Path, chromium: Browser) -> None:
    (file,) = report_output.glob("_ecif/trace/**/*.html")
    with opened(chromium, file) as page:
        expect(page.locator("h1")).to_contain_text(CAPTIONS["script"])
        assert page.locator("script").count() == 1
        every = page.locator("li.card").count()
        expect(page.locator("#count")).to_have_text(f"{every} of {every} pairs shown")
        page.check("input[name=set][value=supporting]", force=True)
        expect(page.locator("li.card[data-sets=responsible]").first).to_be_hidden()
        page.select_option("#sort", "0")
        found = page.eval_on_selector_all(
            "li.card",
            "cards => cards.filter(c => c.checkVisibility()).map(c => Number(c.dataset.scores.split(' ')[0]))",
        )
        assert found == sorted(found) != []
        page.fill("#search", "square")
        page.locator("li.card:visible .open").first.click()
        expect(page.locator("#zoom")).to_be_visible()
        page.keyboard.press("ArrowRight")
        expect(page.locator("#zoom-place")).to_contain_text("2 of ")
        page.keyboard.press("Escape")
    with opened(chromium, file, phone=True, color_scheme="dark") as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert (page.evaluate(WIDE), page.evaluate(SMALL)) == ([], [])
        assert page.evaluate(CONTRAST)["poor"] == []
