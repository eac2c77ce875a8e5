"""The row of numbers that two runs of the same pairs are held against each other by."""

from __future__ import annotations

import numpy as np

from bench.oom import row


def test_equal_scores_differ_in_nothing() -> None:
    values = np.linspace(-1, 1, 40)
    assert row(values, values).split() == ["0.00e+00", "0.00e+00", "0.0e+00", "0", "of", "4"]


def test_a_difference_is_a_share_of_the_largest_score_and_a_swap_over_the_cut_is_counted() -> None:
    wanted = np.arange(40.0) - 20
    found = wanted.copy()
    found[[3, 4]] = found[[4, 3]]  # the pair above the cut of four comes below it
    largest, share, off, moved, *_ = row(found, wanted).split()
    assert (float(largest), float(share), moved) == (1, 0.05, "1")
    assert abs(float(off) - 6 * 2 / (40 * (40**2 - 1))) < 1e-5
