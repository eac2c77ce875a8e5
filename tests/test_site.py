"""The site: every page has its place, the figures are what the code draws, and the check of a site finds its faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs import figures, hooks, site

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def _leaves(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    else:
        for part in node.values() if isinstance(node, dict) else node:
            yield from _leaves(part)


def test_every_page_has_one_place() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    assert sorted(_leaves(settings["nav"])) == sorted(path.name for path in DOCS.glob("*.md"))
    assert settings["theme"]["font"] is False


@pytest.mark.parametrize("name", figures.FIGURES)
def test_figures_are_what_the_code_draws(name: str) -> None:
    stored = (DOCS / name).read_text("utf-8")
    assert figures.same(stored, figures.FIGURES[name]()), "run `make docs`"
    assert not figures.same(stored, stored.replace('x="', 'x="9', 1))
    assert not figures.same(stored, stored.replace("</svg>", "<g/></svg>"))


def test_the_numbers_that_the_page_tells() -> None:
    predicted, actual = figures.changes()
    order = [sorted(range(len(values)), key=values.__getitem__) for values in (predicted, actual)]
    ranks = [dict(zip(places, range(len(places)), strict=True)) for places in order]
    n = len(predicted)
    spearman = 1 - 6 * sum((ranks[0][i] - ranks[1][i]) ** 2 for i in range(n)) / (n * (n * n - 1))
    page = (DOCS / "explained.md").read_text("utf-8")
    assert f"rank correlation of\n{spearman:.2f} " in page
    # A wrong caption does harm more often than a right one.
    wrong = [value < 0 for value in actual[:: figures.WRONG]]
    assert sum(wrong) / len(wrong) > sum(value < 0 for value in actual) / n


def test_links_out_of_the_pages_become_names() -> None:
    text = "[prefect.yaml](../prefect.yaml), [rights](../infra/README.md#rights), [here](cli.md#options)"
    assert (
        hooks.on_page_markdown(text, page=None) == "`prefect.yaml`, rights (`infra/README.md`), [here](cli.md#options)"
    )


def _built(folder: Path, body: str, css: str = "") -> list[str]:
    (folder / "other.html").write_text('<h2 id="there">x</h2>', "utf-8")
    (folder / "a.png").write_bytes(b"")
    (folder / "style.css").write_text(css, "utf-8")
    (folder / "index.html").write_text(f"<html><body>{body}</body></html>", "utf-8")
    return list(site.problems(folder))


@pytest.mark.parametrize(
    "body",
    [
        '<a href="other.html#there">x</a><img src="a.png"><a href="https://example.org/">away</a>',
        '<link rel="stylesheet" href="style.css"><link rel="canonical" href="https://example.org/">',
        '<a href="#own">x</a><p id="own"></p><img src="data:image/png;base64,AA=="><a href="mailto:a@b.c">x</a>',
    ],
)
def test_a_site_without_fault(tmp_path: Path, body: str) -> None:
    assert _built(tmp_path, body, "a { background: url(a.png) }") == []


@pytest.mark.parametrize(
    ("body", "css", "problem"),
    [
        ('<script src="https://example.org/x.js"></script>', "", "index.html: loads https://example.org/x.js"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "", "index.html: loads //example.org/x.css"),
        ('<img srcset="a.png 1x, https://example.org/b.png 2x">', "", "index.html: loads https://example.org/b.png"),
        ("<p style=\"background: url('https://example.org/x')\">", "", "index.html: loads https://example.org/x"),
        ("", "@import 'https://example.org/f.css';", "style.css: loads https://example.org/f.css"),
        ("", "a { src: url(https://example.org/f.woff) }", "style.css: loads https://example.org/f.woff"),
        ('<img src="gone.png">', "", "index.html: loads gone.png, which does not exist"),
        ('<a href="gone.html">x</a>', "", "index.html: links to gone.html, which does not exist"),
        ('<a href="other.html#gone">x</a>', "", "index.html: links to other.html#gone, which has no such place"),
        ('<pre class="mermaid">x</pre>', "", "index.html: a mermaid diagram"),
    ],
)
def test_each_fault_is_found(tmp_path: Path, body: str, css: str, problem: str) -> None:
    (found,) = _built(tmp_path, body, css)
    assert found.startswith(problem)


def test_an_empty_site_is_none(tmp_path: Path) -> None:
    assert list(site.problems(tmp_path)) == [f"{tmp_path}: holds no page"]
