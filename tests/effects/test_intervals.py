"""Intervals by Student's t against printed quantiles, the textbook formula, and their promise."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif.effects.intervals import difference, mean, quantile

# Printed tables, 0.975.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 7: 2.365, 9: 2.262, 29: 2.045, 120: 1.980}

shares = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=12)


@pytest.mark.parametrize(("freedom", "expected"), T.items())
def test_quantiles_are_those_of_the_tables(freedom: int, expected: float) -> None:
    assert quantile(freedom) == pytest.approx(expected, abs=6e-4)


@given(shares)
def test_the_interval_is_the_textbooks(values: list[float]) -> None:
    found = mean(values)
    half = quantile(len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    assert found.value == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=1e-6)


@given(shares, st.floats(-1, 1))
def test_what_a_seed_adds_to_both_goes_out(values: list[float], shift: float) -> None:
    found = difference([value + shift for value in values], values)
    assert found.value == pytest.approx(shift, abs=1e-9)
    assert found.high - found.low == pytest.approx(0, abs=1e-6)


def test_differences_are_paired_in_their_order() -> None:
    ones, others = [0.5, 0.7, 0.6], [0.4, 0.65, 0.45]
    naive = [a - b for a, b in zip(ones, others, strict=True)]
    assert difference(ones, others) == mean(naive)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        difference(ones, others[:2])


def test_they_hold_what_they_promise() -> None:
    random = np.random.default_rng(0)
    intervals = [mean(random.normal(0.3, 0.1, 4).tolist()) for _ in range(1_000)]
    inside = sum(found.low <= 0.3 <= found.high for found in intervals)
    # Binomial with p = 0.95: five standard deviations are 35.
    assert abs(inside - 950) < 35


def test_one_value_has_no_interval() -> None:
    with pytest.raises(ValueError, match="two values"):
        mean([0.5])
