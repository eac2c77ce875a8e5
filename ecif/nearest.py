"""The nearest known word to a mistyped one, for messages about commands, options and values."""

from __future__ import annotations

from collections.abc import Iterable


def distance(a: str, b: str) -> int:
    """Edit distance of two words: insertions, deletions, substitutions, and swaps of two neighbours.

    This is the optimal string alignment distance (Damerau 1964), in O(len(a) len(b)).
    """
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        above, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y)))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                row[j] = min(row[j], before[j - 2] + 1)
        before = above
    return row[-1]


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The known word with the smallest distance, of equals the first; None when a third of it would have to change."""
    best = min(known, key=lambda word: distance(given.lower(), word.lower()), default=None)
    if best is None or 3 * distance(given.lower(), best.lower()) > max(3, len(given), len(best)):
        return None
    return best


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """A question that follows a message, or nothing."""
    found = nearest(str(given), known)
    return "" if found is None else f" Did you mean {found!r}?"
