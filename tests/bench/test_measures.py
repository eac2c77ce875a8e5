"""Measures of agreement, against values worked out by hand or by another route."""

from __future__ import annotations

import numpy as np
import pytest

from bench.method import measures


def test_ranks_share_ties() -> None:
    assert (measures.ranks(np.array([3.0, 1.0, 3.0, 2.0])) - 0.5).tolist() == [2.5, 0.0, 2.5, 1.0]


def test_spearman_is_the_correlation_of_the_ranks() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 3, 20))
    for row in range(3):
        expected = np.corrcoef(np.argsort(np.argsort(x[row])), np.argsort(np.argsort(y[row])))[0, 1]
        assert measures.spearman(x, y)[row] == pytest.approx(expected)
    assert measures.spearman(x, np.exp(x)) == pytest.approx(1)
    assert measures.spearman(x, -x) == pytest.approx(-1)
    assert measures.spearman(x[0], np.zeros(20)) == 0


def test_slope_of_predictions_of_twice_the_size() -> None:
    actual = np.array([0.1, -0.4, 0.7, 0.0])
    assert measures.slope(2 * actual + 5, actual) == pytest.approx(2)


def test_lds_is_the_mean_over_targets() -> None:
    actual = np.arange(10.0)[None].repeat(2, 0)
    predicted = np.stack([np.arange(10.0), -np.arange(10.0)])
    assert measures.lds(predicted, actual) == pytest.approx(0)
    assert measures.lds(predicted[:1], actual[:1]) == pytest.approx(1)


def test_the_interval_holds_the_truth_and_shrinks_with_more_subsets() -> None:
    generator = np.random.default_rng(1)

    def samples(size: int) -> list[tuple[measures.Array, measures.Array]]:
        found = []
        for _ in range(3):
            actual = generator.normal(size=(4, size))
            found.append((actual + generator.normal(size=(4, size)), actual))
        return found

    small, large = (measures.bootstrap(measures.lds, samples(size), 100) for size in (15, 60))
    # Spearman of x and x + noise of the same size: 6/pi asin(sqrt(1/2) / 2).
    truth = 6 / np.pi * np.arcsin(0.5**0.5 / 2)
    assert small.low < truth < small.high
    assert large.low < large.value < large.high
    assert large.high - large.low < small.high - small.low


def test_table_is_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    measures.table("title", ("a", "b"), [("1", "2")])
    assert capsys.readouterr().out == "\ntitle\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    assert measures.mean_and_spread([1.0, 3.0]) == "2.00 ± 1.41"
