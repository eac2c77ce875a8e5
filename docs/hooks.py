"""What the site needs and plain Markdown does not: links that leave docs/ become the names of the files they lead to.

In the repository `[prefect.yaml](../prefect.yaml)` is a link; the site does not hold that file, and names it instead.
"""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with the text of each page."""
    return _OUTSIDE.sub(_named, markdown)


def _named(link: re.Match[str]) -> str:
    text, path = link[1], link[2]
    return f"`{path}`" if path in text else f"{text} (`{path}`)"
