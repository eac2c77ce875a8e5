"""Markdown out of names and messages that come from the data, and links that a browser can follow.

Prefect's pages show text and, less expectedly, every cell of a table as markdown: a shard that is called
`![](http://...)` would load a picture from anywhere whenever somebody looks. So what comes from the data is escaped,
with backslashes, which those pages understand (references such as `&#95;` they show as they are).

A browser cannot open `s3://`. ECIF_BROWSE says what it can open instead: a JSON object of URL prefixes and the web
addresses that stand for them, of a storage's console, of a gateway, of a bucket that serves the web.
"""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from ecif.storage.secrets import redact

VARIABLE = "ECIF_BROWSE"
LONGEST = 400
WIDTH = 28
# What can begin a mark, an autolink or HTML.
_SIGNS = re.compile(r"([\\`*_\[\]()<>|#&!~@]|:(?=//)|(?<=www)\.|^[-+=])", re.IGNORECASE)
_NUMBER = re.compile(r"^(\d{1,9})\.")


def escaped(text: str) -> str:
    """`text` in one line, without secrets, at most LONGEST characters, and with no sign that means anything."""
    return _escaped(_plain(text))


def wrapped(text: str) -> str:
    """`escaped` in lines of WIDTH characters: a cell of Prefect's tables is as wide as its text, and cut."""
    return "  \n".join(_escaped(line) for line in textwrap.wrap(_plain(text), WIDTH, break_on_hyphens=False))


def link(text: str, url: str, anchor: str = "") -> str:
    """`text`, and where it leads, if a browser can go there; `anchor` names a place on the page."""
    address, shown = browsable(url), escaped(text)
    if address is None:
        return shown
    target = f"({address}#{anchor})" if anchor else f"({address})"
    # Prefect's pages show the text of a link as it is, with its backslashes.
    return f"[{text}]{target}" if shown == text else f"{shown} [↗]{target}"


def browsable(url: str) -> str | None:
    """The web address of a file; None when there is none that is known."""
    found = [(prefix, address) for prefix, address in _browse().items() if url.startswith(prefix)]
    if found:
        prefix, address = max(found, key=lambda item: len(item[0]))
        return address + quote(url[len(prefix) :], safe="/")
    if url.startswith(("http://", "https://")) and redact(url) == url:
        return quote(url, safe=":/?&=%~+,;@[]!$*'")
    return None


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table, the first column to the left and the others to the right; cells are markdown already."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _plain(text: str) -> str:
    shown = "".join(sign for sign in " ".join(redact(text).split()) if sign.isprintable())
    flat = " ".join(shown.split())
    return flat if len(flat) <= LONGEST else flat[: LONGEST - 1] + "…"


def _escaped(line: str) -> str:
    return _NUMBER.sub(r"\1\\.", _SIGNS.sub(r"\\\1", line))


def _browse() -> dict[str, str]:
    """What ECIF_BROWSE says; nothing, where it is not an object of web addresses."""
    try:
        said = json.loads(os.environ.get(VARIABLE) or "{}")
    except ValueError:
        return {}
    pairs = said.items() if isinstance(said, dict) else ()
    return {prefix: to for prefix, to in pairs if isinstance(to, str) and re.fullmatch(r"https?://[^\s()<>\"]+", to)}
