"""Contrast, labels and names: what a page needs so that everyone can use it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from ecif.report.quality import STEPS
from ecif.report.templates import part
from tests.conftest import MakeTar
from tests.report.pages import Corpus, Page

STYLE = part("style.css")
Colour = tuple[float, float, float]


def _scheme(dark: bool) -> dict[str, Colour]:
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    found = dict(re.findall(r"--(\w+): #([0-9a-f]{6})", blocks[int(dark)]))
    red, green, blue = slice(0, 2), slice(2, 4), slice(4, 6)
    return {
        name: (int(text[red], 16) / 255, int(text[green], 16) / 255, int(text[blue], 16) / 255)
        for name, text in found.items()
    }


def _luminance(colour: Colour) -> float:
    parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(first: Colour, second: Colour) -> float:
    """WCAG 2.2, 1 to 21."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_enough_contrast_in_both_schemes(dark: bool) -> None:
    colours = _scheme(dark)
    grounds = ("paper", "card", "well")
    for ink in ("ink", "soft", "link", "kept", "dropped", "quarantined"):
        for ground in grounds:
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for ground in ("ink", "link", "kept", "dropped"):  # buttons that are on
        assert contrast(colours["paper"], colours[ground]) >= 4.5, ground
    for mark in ("edge", "kept", "dropped", "quarantined", "fourth", "fifth"):  # borders of controls, curves
        for ground in ("paper", "card"):
            assert contrast(colours[mark], colours[ground]) >= 3, (mark, ground)


@pytest.mark.parametrize("dark", [False, True])
def test_numbers_are_read_on_every_shade_of_a_table(dark: bool) -> None:
    colours = _scheme(dark)
    shades = {
        int(n): int(p)
        for n, p in re.findall(r"\.shade-(\d+) \{ background: color-mix\(in srgb, var\(--kept\) (\d+)%", STYLE)
    }
    assert [*shades] == [*range(1, STEPS + 1)]
    for percent in shades.values():
        share = percent / 100
        mixed = tuple(share * k + (1 - share) * p for k, p in zip(colours["kept"], colours["paper"], strict=True))
        assert contrast(colours["ink"], mixed) >= 4.5, percent  # type: ignore[arg-type]


@pytest.fixture
def page(tmp_path: Path, make_tar: MakeTar) -> Page:
    corpus = Corpus(tmp_path, make_tar)
    corpus.add("00", [float(i) for i in range(30)] + [None])
    return corpus.page(corpus.decide(drop_count=3))


def test_every_control_has_a_name(page: Page) -> None:
    inside: list[str] = []
    named = 0
    texts = {path for path, _ in page.texts}
    for tag, attributes in page.elements:
        if tag in {"input", "select", "progress", "dialog"}:
            named += 1
            assert attributes.get("aria-label") or attributes.get("aria-labelledby") or tag in {"input", "select"}, tag
            inside.append(tag)
    assert named > 8
    assert any(path[-1] == "button" for path in texts)
    for tag, attributes in page.elements:
        if tag == "button":
            assert attributes["type"] == "button"
    source = page.source('main id="main"').split("</main>")[0]
    for control in re.findall(r"<(?:input|select)\b", source):
        assert control
    unlabelled = re.sub(r"<label\b.*?</label>", "", source, flags=re.DOTALL)
    assert not re.findall(r"<(?:input|select)\b", unlabelled)


def test_pictures_tables_and_landmarks_say_what_they_are(page: Page) -> None:
    tags = [tag for tag, _ in page.elements]
    assert (tags.count("h1"), tags.count("main"), tags.count("header"), tags.count("footer")) == (1, 1, 1, 1)
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    for tag, attributes in page.elements:
        if tag == "img":
            assert attributes["alt"]
        if attributes.get("class") == "scroll":
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len({*ids})
    live = [attributes["id"] for _, attributes in page.elements if attributes.get("aria-live") == "polite"]
    assert {"count", "standing", "said", "zoom-place"} <= {*live}
    for tag, attributes in page.elements:
        if tag == "a":
            assert (attributes["href"] or "")[1:] in ids


def test_reduced_motion_and_small_screens_are_thought_of() -> None:
    assert "prefers-reduced-motion: reduce" in STYLE
    assert "@media print" in STYLE
    assert "min-height: 2.5rem" in STYLE  # 40 pixels
