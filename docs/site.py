"""Check a built site: `python -m docs.site DIR` fails when a page asks another host for anything, or a link is broken.

Links to other hosts are fine where a reader has to follow them (`<a href>`). What a browser loads by itself has to lie
in the directory: scripts, styles, fonts, images, and what styles name. Diagrams for which the theme would fetch a
library are refused, too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Of `<link>`: what a browser does not load.
_NOT_LOADED = {"canonical", "next", "prev", "alternate", "author", "license"}


class _Page(HTMLParser):
    """The names, links and loaded files of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = {"", "top"}
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.troubles: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        if "mermaid" in given.get("class", "").split():
            self.troubles.append("a mermaid diagram, for which the theme loads a library from another host")
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in _NOT_LOADED:
            self.loaded.append(given.get("href", ""))
        self.loaded += [given[name] for name in ("src", "poster", "data") if given.get(name)]
        self.loaded += [part.split()[0] for part in given.get("srcset", "").split(",") if part.strip()]
        self.loaded += re.findall(r"url\(['\"]?([^'\")]+)", given.get("style", ""))


def problems(site: Path) -> Iterator[str]:
    """Everything that is wrong with the site, a line each."""
    pages = {path: _Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site}: holds no page"
    for path, page in pages.items():
        place = path.relative_to(site)
        yield from (f"{place}: {trouble}" for trouble in page.troubles)
        # The page for what does not exist is shown at any address, so its links are absolute.
        root = site if path.name == "404.html" else path.parent
        for url in page.loaded:
            if url.startswith("data:"):
                continue
            if _elsewhere(url):
                yield f"{place}: loads {url}"
            elif not _file(url, root, site).is_file():
                yield f"{place}: loads {url}, which does not exist"
        for url in page.links:
            if _elsewhere(url) or urlsplit(url).scheme:
                continue
            file = _file(url, root, site) if urlsplit(url).path else path
            file = file / "index.html" if file.is_dir() else file
            if not file.is_file():
                yield f"{place}: links to {url}, which does not exist"
            elif file in pages and unquote(urlsplit(url).fragment) not in pages[file].names:
                yield f"{place}: links to {url}, which has no such place"
    for path in sorted(site.rglob("*.css")):
        for url in re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")\s;]+)", path.read_text("utf-8")):
            if _elsewhere(url):
                yield f"{path.relative_to(site)}: loads {url}"


def _elsewhere(url: str) -> bool:
    return bool(urlsplit(url).netloc)


def _file(url: str, folder: Path, site: Path) -> Path:
    path = unquote(urlsplit(url).path)
    return site / path.lstrip("/") if path.startswith("/") else (folder / path).resolve()


def main() -> None:
    """Print the problems; ends with 1 when there are any."""
    site = Path(sys.argv[1]).resolve()
    found = list(problems(site))
    for problem in found:
        print(problem, file=sys.stderr)
    count = len(list(site.rglob("*.html")))
    print(f"{site.name}: {count} pages, {len(found)} problems")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
