"""A feed gives what a loop would give, in order, holds no more than it may, and ends its threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif.stages.feed import Feed


def threads() -> set[str]:
    return {one.name for one in threading.enumerate() if one.name == "read" or one.name.startswith("decode")}


@given(st.lists(st.integers(), max_size=40), st.integers(1, 4), st.integers(1, 8))
def test_it_is_map(items: list[int], workers: int, depth: int) -> None:
    with Feed(lambda item: item * 2, iter(items), workers, depth) as feed:
        assert list(feed) == [item * 2 for item in items]
        assert list(feed) == []
    assert threads() == set()


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_is_read_ahead_than_the_depth(depth: int) -> None:
    read: list[int] = []
    enough = threading.Event()

    def source() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            if len(read) == depth:
                enough.set()
            yield number

    with Feed(lambda item: item, source(), 2, depth) as feed:
        assert enough.wait(10)
        for taken in range(1, 20):
            assert next(feed) == taken - 1
            assert len(read) <= taken + depth


def test_it_begins_before_anything_is_asked_for() -> None:
    begun = threading.Event()
    with Feed(lambda _: begun.set(), iter([1]), 1, 1):
        assert begun.wait(10)


def test_an_error_of_the_source_comes_behind_what_it_gave() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("cut")

    with Feed(lambda item: item, source(), 2, 4) as feed:
        assert next(feed) == 1
        with pytest.raises(OSError, match="cut"):
            next(feed)
        assert list(feed) == []


def test_an_error_of_the_work_comes_at_its_place() -> None:
    with Feed(lambda item: 1 // item, iter([1, 0, 1]), 2, 4) as feed:
        assert next(feed) == 1
        with pytest.raises(ZeroDivisionError):
            next(feed)


def test_closing_closes_the_source_in_its_thread() -> None:
    closed: list[str] = []

    def source() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(threading.current_thread().name)

    feed = Feed(lambda item: item, source(), 2, 3)
    assert next(feed) == 1
    feed.close()
    assert closed == ["read"]
    assert threads() == set()
