"""What a person decided on single pairs: a file of entries and `keep` or `drop`, as the report's review exports it.

    uid,action                    {"0123...": "drop", "sample:00000/000000017": "keep"}
    0123...,drop
    sample:00000/000000017,keep   [{"uid": "0123...", "action": "drop"}, ...]

CSV or JSON. Entries are those of lists (`ecif/lists.py`): a uid, `key:`, `sample:SHARD/KEY`. URLs and image digests are
left to the lists: a review has seen pairs. Both halves are frozen with the decision in the form of lists.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from ecif import lists
from ecif.errors import InputError

ACTIONS = ("drop", "keep")
_NAMES = ("uid", "key", "sample")


def read(data: bytes, url: str) -> dict[str, bytes]:
    """The frozen entries (`lists.freeze`) by action; actions without entries are left out.

    Args:
        url: where it was read, for messages.

    Raises:
        InputError: it is no such file, or says both of one entry; the place is named.
    """
    found: dict[tuple[str, str], str] = {}
    for where, text, action in _entries(data, url):
        if action not in ACTIONS:
            raise InputError(f"{where}: what happens to a pair is keep or drop, not {action!r}", url=url)
        if "\n" in text or "\r" in text:
            raise InputError(f"{where}: an entry is one line, not {text!r}", url=url)
        try:
            entry = lists.entry(text.strip())
        except ValueError as error:
            raise InputError(f"{where}: {error}", url=url) from None
        if entry[0] not in _NAMES:
            problem = f"{where}: overrides name a uid, key:KEY or sample:SHARD/KEY, not {text!r}"
            raise InputError(f"{problem}; for {entry[0]} entries there are --denylist and --allowlist", url=url)
        if found.setdefault(entry, action) != action:
            raise InputError(f"{where}: {text} is to be kept and dropped; leave one of them", url=url)
    frozen = {}
    for action in ACTIONS:
        lines = [f"{kind}:{text}" for (kind, text), said in found.items() if said == action]
        if lines:
            frozen[action] = lists.freeze("\n".join(lines).encode(), url)
    return frozen


def _entries(data: bytes, url: str) -> Iterator[tuple[str, str, str]]:
    """Place, entry and action of each line or item."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 text: {error}", url=url) from error
    if text.lstrip()[:1] in ("{", "["):
        yield from _json(text, url)
        return
    for number, row in enumerate(csv.reader(io.StringIO(text, newline="")), 1):
        if not row or not "".join(row).strip() or row[0].startswith("#"):
            continue
        if len(row) != 2:
            raise InputError(f"line {number}: an entry is uid,keep or uid,drop; it has {len(row)} values", url=url)
        entry, action = row[0].strip(), row[1].strip().lower()
        if number == 1 and action not in ACTIONS and entry.lower() in _NAMES:
            continue  # the header
        yield f"line {number}", entry, action


def _json(text: str, url: str) -> Iterator[tuple[str, str, str]]:
    try:
        value = json.loads(text, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not valid JSON: {error}", url=url) from error
    if isinstance(value, _Pairs):
        value = next((item for name, item in value.items if name == "overrides"), value)
    if isinstance(value, _Pairs):
        for name, action in value.items:
            yield f"entry {name!r}", name, action if isinstance(action, str) else repr(action)
        return
    for number, item in enumerate(value if isinstance(value, list) else [None], 1):
        facts = dict(item.items) if isinstance(item, _Pairs) else {}
        names = [name for name in _NAMES if isinstance(facts.get(name), str)]
        action = facts.get("action")
        if not names or not isinstance(action, str):
            problem = 'an item is an object such as {"uid": "...", "action": "drop"}'
            raise InputError(f"item {number}: {problem}, not {sorted(facts) or item!r}", url=url)
        # Where several are given, the most exact one counts.
        name = "sample" if "sample" in names else names[0]
        yield f"item {number}", f"{name}:{facts[name]}", action


class _Pairs:
    """A JSON object with its repetitions, which a dict would swallow."""

    def __init__(self, items: list[tuple[str, Any]]) -> None:
        self.items = items


def _pairs(items: list[tuple[str, Any]]) -> _Pairs:
    return _Pairs(items)
