"""The edit distance against its recursive definition, and what counts as near."""

from __future__ import annotations

import functools

from hypothesis import given
from hypothesis import strategies as st

from ecif.nearest import did_you_mean, distance, nearest

words = st.text("abc", max_size=6)


@functools.cache
def by_definition(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    found = min(
        by_definition(a[:-1], b) + 1, by_definition(a, b[:-1]) + 1, by_definition(a[:-1], b[:-1]) + (a[-1] != b[-1])
    )
    if len(a) > 1 and len(b) > 1 and a[-1] == b[-2] and a[-2] == b[-1]:
        found = min(found, by_definition(a[:-2], b[:-2]) + 1)
    return found


@given(words, words)
def test_the_distance_is_the_one_defined(a: str, b: str) -> None:
    assert distance(a, b) == by_definition(a, b) == distance(b, a)


@given(words, st.lists(words, min_size=1))
def test_nothing_is_nearer_than_the_nearest(given_word: str, known: list[str]) -> None:
    found = nearest(given_word, known)
    least = min(distance(given_word, word) for word in known)
    if found is None:
        assert least > 0
    else:
        assert distance(given_word, found) == least


def test_a_slip_is_near_and_another_word_is_not() -> None:
    known = ("clip_score", "tracin", "drop")
    assert [nearest(word, known) for word in ("clip_scor", "TRACIN", "tarcin", "dorp", "weather", "")] == [
        "clip_score",
        "tracin",
        "tracin",
        "drop",
        None,
        None,
    ]
    assert did_you_mean("dorp", known) == " Did you mean 'drop'?"
    assert did_you_mean("weather", known) == did_you_mean("drop", ()) == ""
