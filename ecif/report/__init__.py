"""The report: one self-contained HTML page that says what a run did to a corpus, and lets people look for themselves.

gather    numbers of all shards, in bounded memory:
            deciding (which score), tally (one reading), sets and agreement (pairs to show), effect (by shard)
gallery   images and captions of the pairs that are shown; pictures keeps those of the last page
figures, charts   drawings as SVG
page      all of it as HTML, by template.html

It is made from what lies in the output and from the input tars alone, so it can be made again at any time; input that
cannot be read any more leaves a note in the gallery instead of a picture. The page needs no font and no file beside it,
shows everything without its script, which filters and keeps a review, and forbids the browser to load anything.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ecif.inventory import Inventory
from ecif.layout import Layout
from ecif.progress import Progress, Silent
from ecif.report.cards import pairs
from ecif.report.gather import gather
from ecif.report.numbers import Numbers
from ecif.report.page import render
from ecif.report.pictures import pictures
from ecif.report.tally import SHOWN
from ecif.selection import Decision
from ecif.storage import Storage

NO_FAILURES: Mapping[str, str] = {}


def build_report(
    layout: Layout,
    storage: Storage,
    inventory: Inventory,
    decision: Decision | None,
    score_key: str,
    *,
    failed: Mapping[str, str] = NO_FAILURES,
    progress: Progress = Silent(),
    shown: int = SHOWN,
) -> bytes:
    """Make the report.

    Args:
        decision: None while nothing has been decided.
        score_key: the scores to report on; shards without them are listed.
        failed: shards that were set aside in this run, with the reason.
        shown: pairs in each set of the gallery, 1 to 200.

    Returns:
        a UTF-8 HTML document.

    Raises:
        InputError: a score table, a manifest or the meta data of the output is broken.
    """
    numbers = gather(layout, storage, inventory, decision, score_key, failed, progress, shown)
    return compose(layout, storage, inventory, decision, numbers, progress)


def compose(
    layout: Layout,
    storage: Storage,
    inventory: Inventory,
    decision: Decision | None,
    numbers: Numbers,
    progress: Progress = Silent(),
) -> bytes:
    """The report from numbers that `gather` took, for callers who need them, too."""
    caption = str(numbers.settings.get("caption", "txt"))
    shown = pictures(layout, storage, pairs(numbers), inventory.by_name(), caption, progress)
    return render(layout, decision, numbers, shown)


class _Called(ModuleType):
    """This room has the name of a function of the Python API; called, it is that function."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        from ecif import api

        return api.report(*arguments, **settings)


sys.modules[__name__].__class__ = _Called
