"""From a template to the bytes of a page; what all pages have in common: the frame, the style, and what may run.

Everything that comes from data is escaped by the template engine; nothing is marked as safe but the drawings, the style
sheet and the scripts of this package. A page holds one style sheet and one script, and its policy names both by their
SHA-256: whatever else might get into a page, a browser neither runs nor applies it, and asks nobody for anything. The
price is that no element may carry a `style` attribute. Undefined names are errors, so that a page is either whole or
not made.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from typing import Any

import jinja2
from markupsafe import Markup

from ecif.report.numerals import integer, number, percent

_CONTROLS = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127], "\ufffd")


def fill(template: str, *, scripts: tuple[str, ...], **values: Any) -> bytes:
    """A template of this package, filled in, as UTF-8 HTML.

    Args:
        scripts: files of this package that run in the page, in this order, as one script.
    """
    style, script = part("style.css"), "".join(part(name) for name in scripts)
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(part),
    )
    environment.filters.update(integer=integer, number=number, percent=percent)
    text = environment.get_template(template).render(
        policy_of_page=policy(style, script), style=Markup(style), script=Markup(script), **values
    )
    return clean(text).encode("utf-8", "replace")


def part(name: str) -> str:
    """The text of a file of this package."""
    return importlib.resources.files("ecif.report").joinpath(name).read_text("utf-8")


def policy(style: str, script: str) -> str:
    """The content security policy of a page with this style sheet and this script, and nothing else.

    A download of what the page itself made (a `blob:` URL) is no request and needs no permission.
    """
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def clean(text: str) -> str:
    """Text as HTML can hold it: names of tar members may hold anything, HTML has no control characters."""
    return text.translate(_CONTROLS)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
