"""Shards that are not there: gaps in the ranges that were asked for, and in the numbers of those that exist."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from ecif.shards.lint.finding import Finding
from ecif.sources import Expansion, without_ending


def numbering(expansion: Expansion) -> Iterator[Finding]:
    """Members of brace ranges that do not exist, and jumps between the numbers of shards in one directory."""
    for url in expansion.missing:
        yield Finding("warning", "missing_shard", url, None, None, "belongs to the range that was asked for; not there")
    missing = {without_ending(url.rpartition("/")[2]) for url in expansion.missing}
    series: dict[tuple[str, int], list[tuple[int, str]]] = {}
    for found in expansion.shards:
        if match := re.search(r"\d+$", found.name):
            series.setdefault((found.name[: match.start()], len(match[0])), []).append((int(match[0]), found.url))
    for (name, width), numbers in series.items():
        prefix = name.rpartition("/")[2]
        for (before, _), (after, url) in itertools.pairwise(sorted(numbers)):
            between = range(before + 1, after)
            # Those that a range names one by one were reported above.
            known = len(between) <= len(missing) and all(f"{prefix}{n:0{width}d}" in missing for n in between)
            if between and not known:
                ends = f"between {prefix}{before:0{width}d} and {prefix}{after:0{width}d}"
                yield Finding("warning", "numbering_gap", url, None, None, f"{len(between)} shards are missing {ends}")
