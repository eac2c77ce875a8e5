"""Sizes of groups: by measured seconds, in bounds, and shared at the end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flows.fanout.sizing import FIRST, GROWTH, MOST_GROUPS, Sizes


def test_groups_become_as_long_as_they_should_be() -> None:
    sizes = Sizes(None, seconds=600, workers=2, total=8_000)
    assert sizes(8_000) == FIRST
    sizes.measured(FIRST, FIRST * 10.0)
    assert sizes(7_996) == GROWTH * FIRST
    assert sizes(7_964) == 60


def test_slower_shards_make_smaller_groups() -> None:
    sizes = Sizes(None, seconds=600, workers=2, total=2_000)
    for _ in range(20):
        sizes.measured(1, 400.0)
    assert sizes(1_500) == 1


def test_the_last_shards_are_shared() -> None:
    sizes = Sizes(None, seconds=600, workers=4, total=100)
    sizes.measured(4, 0.4)
    left, taken = 96, []
    while left:
        taken.append(sizes(left))
        left -= taken[-1]
    assert taken[0] == 24
    assert taken[-4:] == [1, 1, 1, 1]


def test_a_stage_has_a_bounded_number_of_groups_however_slow_its_shards_are() -> None:
    total = 1_000_000
    sizes = Sizes(None, seconds=1, workers=8, total=total)
    left, groups = total, 0
    while left:
        size = sizes(left)
        sizes.measured(size, 3600.0 * size)
        left, groups = left - size, groups + 1
    assert groups < MOST_GROUPS + 8 * 8


def test_a_given_size_holds() -> None:
    sizes = Sizes(7, seconds=1, workers=4, total=100)
    sizes.measured(7, 9999.0)
    assert [sizes(100), sizes(3)] == [7, 7]


@given(
    st.integers(1, 5_000),
    st.integers(1, 64),
    st.floats(0.001, 1e5),
    st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1e6)), max_size=20),
)
def test_every_group_holds_a_shard_and_no_more_than_there_are(
    total: int, workers: int, seconds: float, measured: list[tuple[int, float]]
) -> None:
    sizes = Sizes(None, seconds, workers, total)
    left = total
    for shards, took in measured:
        sizes.measured(shards, took)
        size = sizes(left)
        assert 1 <= size <= left
        left = left - size or total
