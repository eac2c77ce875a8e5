"""The system's browser, and a watch over what a page does in it.

`$ECIF_TEST_CHROMIUM` names another one than the first of `chromium`, `chromium-browser` and `google-chrome` on the
PATH. A missing browser is an error.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

OPTIONS = (
    "--no-sandbox",  # tests may run as root, and open nothing but pages of their own
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}
PAGE = Path("_ecif", "report", "index.html")

# Contrast (WCAG) of every text that is seen, against the nearest ground that is not transparent.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (text) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map((v) => v / 255);
  };
  const light = (c) => {
    const [r, g, b] = c.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const found = rgb(getComputedStyle(at).backgroundColor);
      if (found[3] === 1) return found;
    }
    return rgb("Canvas");
  };
  const poor = [];
  let seen = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !node.checkVisibility()) continue;
    if (node.closest("script, style, noscript, option")) continue;
    const style = getComputedStyle(node);
    const ink = rgb(node.closest("svg") ? style.fill : style.color);
    const [low, high] = [light(ink), light(ground(node))].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    seen++;
    if (ratio < 4.5) poor.push(ratio.toFixed(2) + " " + walk.currentNode.data.trim().slice(0, 40));
  }
  return { seen, poor };
}"""

# What reaches beyond the right edge, and what is too small for a finger.
WIDE = """() => [...document.querySelectorAll("body *")]
  .filter((n) => n.checkVisibility() && n.getBoundingClientRect().right > innerWidth + 1 && !n.closest(".scroll"))
  .map((n) => n.outerHTML.slice(0, 80))"""
SMALL = """() => [...document.querySelectorAll("button, select, input[type=search], input[type=number], .choices span")]
  .filter((n) => n.checkVisibility() && n.getBoundingClientRect().height < 40)
  .map((n) => n.outerHTML.slice(0, 80))"""


def found() -> str:
    """The path of the browser.

    Raises:
        FileNotFoundError: there is none.
    """
    given = os.environ.get("ECIF_TEST_CHROMIUM")
    path = given or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None or not Path(path).exists():
        raise FileNotFoundError(
            f"no browser{f' at ECIF_TEST_CHROMIUM={given}' if given else ' on the PATH'}: install Chromium "
            "(apt-get install chromium), or name one with ECIF_TEST_CHROMIUM"
        )
    return path


@contextmanager
def browser() -> Iterator[Browser]:
    """A running browser without a window."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found(), args=OPTIONS)
        try:
            yield started
        finally:
            started.close()


@contextmanager
def opened(started: Browser, file: Path, *, phone: bool = False, before: str = "", **context: Any) -> Iterator[Page]:
    """A page of a file in a profile of its own. When it is left, it has asked nobody for anything, and all was well.

    Args:
        phone: a small screen that is touched. before: a script that runs before those of the page.
    """
    context = {"viewport": PHONE if phone else DESKTOP, "has_touch": phone, "is_mobile": phone, **context}
    profile = started.new_context(accept_downloads=True, **context)
    try:
        if before:
            profile.add_init_script(before)
        page = profile.new_page()
        page.set_default_timeout(20_000)
        wrong: list[str] = []
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))

        def dialog(asked: Any) -> None:
            if asked.type != "beforeunload":
                wrong.append(f"dialog: {asked.message}")
            asked.dismiss()

        page.on("dialog", dialog)
        page.goto(file.as_uri())
        yield page
        assert wrong == []
        assert file.as_uri() in requests
        assert [url for url in requests if not url.startswith((file.as_uri(), "data:image/", "blob:"))] == []
    finally:
        profile.close()


def keys(page: Page) -> list[str]:
    """The keys of the cards that are shown, in their order."""
    found: list[str] = page.eval_on_selector_all(
        "#cards > li", "cards => cards.filter(c => c.checkVisibility()).map(c => c.dataset.key)"
    )
    return found


def verdicts(page: Page) -> dict[str, str]:
    """What was said of each pair, by its name in an overrides file."""
    found: dict[str, str] = page.eval_on_selector_all(
        "#cards > li[data-verdict]", "cards => Object.fromEntries(cards.map(c => [c.dataset.entry, c.dataset.verdict]))"
    )
    return found
