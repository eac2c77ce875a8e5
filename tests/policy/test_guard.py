"""Outliers: what stands out by much and not by chance, and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif.policy.guard import Part, outliers


def parts(*rates: tuple[int, int]) -> list[Part]:
    return [Part(f"{n:05d}", pairs, gone) for n, (pairs, gone) in enumerate(rates)]


def names(found: list[Part], fewest: int = 4) -> list[str | None]:
    return [one.name for one in outliers(found, "shard", fewest)]


def test_a_shard_that_loses_far_more_is_named_with_what_the_others_lose() -> None:
    (found,) = outliers(parts((1000, 100), (1000, 90), (1000, 920), (1000, 110)), "shard", 4)
    assert (found.name, found.pairs, found.gone) == ("00002", 1000, 920)
    assert found.expected == pytest.approx(0.1)
    assert found.words == "shard 00002 loses 92.0% of 1,000 pairs, the rest 10.0%"


@pytest.mark.parametrize(
    "rates",
    [
        pytest.param([(1000, 100), (1000, 250), (1000, 120)], id="three shards are not compared"),
        pytest.param([(1000, 100), (1000, 300), (1000, 100), (1000, 100)], id="three times the odds is no outlier"),
        pytest.param([(1000, 10), (10, 1), (1000, 10), (1000, 10)], id="one of ten may be chance"),
        pytest.param([(1000, 0)] * 5, id="nothing goes"),
        pytest.param([(1000, 1000)] * 5, id="everything goes"),
        pytest.param([(0, 0), (1000, 900), (1000, 100), (1000, 100)], id="empty shards do not count"),
    ],
)
def test_what_is_no_outlier(rates: list[tuple[int, int]]) -> None:
    assert names(parts(*rates)) == []


def test_one_shard_that_takes_all_the_loss_stands_out_although_the_others_lose_none() -> None:
    assert names(parts(*[(1000, 0)] * 9, (1000, 200))) == ["00009"]


def test_many_bad_shards_do_not_hide_each_other() -> None:
    assert names(parts(*[(1000, 50)] * 60, *[(1000, 900)] * 40)) == [f"{n:05d}" for n in range(60, 100)]


def test_high_rates_are_compared_by_odds() -> None:
    keep_a_third = [(1000, 660)] * 9
    assert names(parts(*keep_a_third, (1000, 800))) == []
    assert names(parts(*keep_a_third, (1000, 950))) == ["00009"]


def test_of_two_groups_one_may_stand_out() -> None:
    (found,) = outliers([Part("de", 500, 400), Part(None, 9000, 300)], "group", 2)
    assert found.words == "group de loses 80.0% of 500 pairs, the rest 3.3%"
    (found,) = outliers([Part("de", 5000, 100), Part(None, 900, 800)], "group", 2)
    assert found.words.startswith("group without a value loses 88.9%")


@given(st.floats(0.001, 0.9), st.integers(1, 2000), st.integers(0, 10))
def test_chance_alone_never_alarms(rate: float, pairs: int, seed: int) -> None:
    """Twenty shards of independent pairs: the bound promises less than one alarm in a million."""
    gone = np.random.default_rng(seed).binomial(pairs, rate, size=20)
    assert names(parts(*((pairs, int(n)) for n in gone))) == []


@given(st.integers(1, 3000), st.floats(0.001, 0.999), st.data())
def test_the_bound_is_not_below_the_binomial_tail(n: int, p: float, data: st.DataObject) -> None:
    from ecif.policy.guard import _divergence

    k = data.draw(st.integers(math.ceil(n * p), n))
    logs = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(k, n + 1)
    ]
    top = max(logs)
    tail = top + math.log(sum(math.exp(value - top) for value in logs))
    assert tail <= -n * _divergence(k / n, p) + 1e-6
