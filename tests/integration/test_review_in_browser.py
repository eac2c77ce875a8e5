"""A review in the page, in a real browser, with the keyboard: it is kept, saved, planned with and read again."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from playwright.sync_api import Browser, Page, expect

from ecif.cli import run
from ecif.layout import Layout
from ecif.lists import read as read_lists
from ecif.stages.plan import load_decision
from ecif.storage import Storage
from ecif.verdicts import judge
from tests.integration.browser import PAGE, keys, opened, verdicts

pytestmark = pytest.mark.integration


def review(page: Page) -> dict[str, str]:
    """Keep and drop some pairs by keyboard; returns what was said."""
    page.click("#review")
    for key in ("k", "d", "ArrowRight", "D", "k", "u", "d", "u", "k"):
        page.keyboard.press(key)
    found = verdicts(page)
    assert sorted(found.values()) == ["drop", "drop", "keep", "keep"]
    expect(page.locator("#standing")).to_contain_text("2 keep, 2 drop, ")
    page.fill("#search", 'a,"b"')
    page.locator(".say button.drop").locator("visible=true").click()
    page.fill("#search", "two words")
    page.locator(".say button.keep").locator("visible=true").click()
    page.click("#reset")
    return verdicts(page)


def saved(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.click(button)
    target = folder / download.value.suggested_filename
    download.value.save_as(target)
    return target


def test_a_review_by_keyboard_ends_in_a_plan(
    report_output: Path, chromium: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(chromium, report_output / PAGE) as page:
        said = review(page)
        assert len(said) == 6
        assert said['sample:hostile/a,"b"\'c'] == "drop"
        assert said["sample:hostile/two words"] == "keep"
        files = [saved(page, "#save-csv", tmp_path), saved(page, "#save-json", tmp_path)]
        command = page.locator("#command").inner_text()
        expect(page.locator("#said")).to_have_text("6 verdicts saved as ecif-overrides.json.")
    assert [file.name for file in files] == ["ecif-overrides.csv", "ecif-overrides.json"]
    assert command == f"ecif plan {report_output} --detector clip_score --drop 0.2 --overrides ecif-overrides.csv"

    planned = []
    for file in files:
        capsys.readouterr()
        arguments = [*command.split()[1:-1], str(file)]
        assert run([*arguments, "--json"]) == 0
        planned.append(json.loads(capsys.readouterr().out))
    assert planned[0]["key"] == planned[1]["key"]
    layout, storage = Layout(str(report_output)), Storage()
    decision = load_decision(layout, storage, planned[0]["key"])
    listed = read_lists(decision, layout, storage)
    fates: dict[str, tuple[str, str | None]] = {}
    for table in sorted((report_output / "_ecif" / "scores" / decision.score_key).glob("*.parquet")):
        shard = table.stem
        rows = judge(pl.read_parquet(table), decision, listed)
        fates |= {f"sample:{shard}/{row['key']}": (row["action"], row["reason"]) for row in rows.iter_rows(named=True)}
    for name, action in said.items():
        assert fates[name] == (action, "override" if action == "drop" else None), name
    assert sum(reason == "override" for _, reason in fates.values()) == sum(a == "drop" for a in said.values())


def test_a_review_is_kept_and_can_be_read_again(report_output: Path, chromium: Browser, tmp_path: Path) -> None:
    with opened(chromium, report_output / PAGE) as page:
        said = review(page)
        files = [saved(page, "#save-csv", tmp_path), saved(page, "#save-json", tmp_path)]
        page.reload()
        assert verdicts(page) == said
        expect(page.locator("#review")).to_have_text("Go on reviewing")
        page.click("#review")
        page.click("#clear")
        assert verdicts(page) == {}
        page.click("#undo")
        assert verdicts(page) == said
    more = files[0].read_text("utf-8") + "sample:elsewhere/1,keep\n0123456789abcdef0123456789abcdef,drop\n"
    (tmp_path / "more.csv").write_text(more, "utf-8")
    for file in (*files, tmp_path / "more.csv"):
        with opened(chromium, report_output / PAGE) as page:
            page.click("#review")
            page.set_input_files("#load", file)
            expect(page.locator("#said")).to_contain_text("verdicts read")
            assert verdicts(page) == said
            again = saved(page, "#save-csv", tmp_path / "again")
            assert set(files[0].read_text("utf-8").splitlines()) <= {*again.read_text("utf-8").splitlines()}
    assert "sample:elsewhere/1,keep" in again.read_text("utf-8")
    assert "uid:0123456789abcdef0123456789abcdef,drop" in again.read_text("utf-8")


def test_two_tabs_have_one_review(report_output: Path, chromium: Browser) -> None:
    with opened(chromium, report_output / PAGE) as page:
        other = page.context.new_page()
        other.goto((report_output / PAGE).as_uri())
        page.click("#review")
        page.keyboard.press("d")
        other.wait_for_function("document.querySelectorAll('#cards > li[data-verdict=drop]').length === 1")
        other.click("#review")
        other.keyboard.press("k")
        page.wait_for_function("document.querySelectorAll('#cards > li[data-verdict=keep]').length === 1")
        assert verdicts(page) == verdicts(other)


@pytest.mark.parametrize("text", ["uid,action\na,maybe\n", "{", "[1]", '{"overrides": [{"key": 1}]}', "\x00\x01"])
def test_a_file_that_is_no_review_changes_nothing(
    report_output: Path, chromium: Browser, tmp_path: Path, text: str
) -> None:
    (tmp_path / "f.csv").write_text(text, "utf-8")
    with opened(chromium, report_output / PAGE) as page:
        page.click("#review")
        page.keyboard.press("k")
        before = verdicts(page)
        page.set_input_files("#load", tmp_path / "f.csv")
        expect(page.locator("#said")).to_contain_text("nothing was changed")
        assert verdicts(page) == before != {}


def test_where_the_browser_keeps_nothing_it_says_so_and_asks_before_closing(
    report_output: Path, chromium: Browser
) -> None:
    refusing = "Storage.prototype.setItem = () => { throw new DOMException('no', 'SecurityError') }"
    with opened(chromium, report_output / PAGE, before=refusing) as page:
        page.click("#review")
        expect(page.locator("#unkept")).to_be_visible()
        page.keyboard.press("k")
        asked: list[str] = []
        page.on("dialog", lambda dialog: asked.append(dialog.type))
        page.close(run_before_unload=True)
        page.wait_for_timeout(500)
        assert asked == ["beforeunload"]


def test_the_review_works_while_a_pair_is_enlarged(report_output: Path, chromium: Browser) -> None:
    with opened(chromium, report_output / PAGE) as page:
        order = keys(page)
        page.click("#review")
        page.keyboard.press("z")
        expect(page.locator("#zoom")).to_be_visible()
        page.keyboard.press("d")
        page.click("#zoom #keep")
        expect(page.locator("#zoom .where")).to_contain_text(order[2])
        page.keyboard.press("u")
        page.keyboard.press("?")
        expect(page.locator("#help")).to_be_visible()
        page.keyboard.press("k")
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        expect(page.locator("#zoom")).to_be_hidden()
        assert [*verdicts(page).values()] == ["drop"]
        expect(page.locator("#bar")).to_be_visible()


def test_letters_in_a_text_field_are_text(report_output: Path, chromium: Browser) -> None:
    with opened(chromium, report_output / PAGE) as page:
        page.click("#review")
        page.focus("#search")
        page.keyboard.type("kdu?")
        assert page.input_value("#search") == "kdu?"
        assert verdicts(page) == {}
