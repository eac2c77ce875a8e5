"""From a template to the bytes of a page; what all pages have in common.

Everything that comes from data is escaped by the template engine; nothing is marked as safe but the drawings. Undefined
names are errors, so that a page is either whole or not made.
"""

from __future__ import annotations

import importlib.resources
from typing import Any

import jinja2

from ecif.report.numerals import integer, number

_CONTROLS = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127], "\ufffd")


def fill(template: str, **values: Any) -> bytes:
    """A template of this package, filled in, as UTF-8 HTML."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(
            lambda name: importlib.resources.files("ecif.report").joinpath(name).read_text("utf-8")
        ),
    )
    environment.filters.update(integer=integer, number=number)
    text = environment.get_template(template).render(**values)
    # Names of tar members may hold anything; HTML has no control characters and UTF-8 no halves of surrogate pairs.
    return text.translate(_CONTROLS).encode("utf-8", "replace")
