"""Numbers as the page prints them."""

from __future__ import annotations

import pytest

from ecif.report.numerals import MINUS, TIMES, integer, number, percent, power_of_ten


def plain(text: str) -> str:
    """With signs that are on a keyboard."""
    for sign, name in ((MINUS, "-"), (TIMES, "x"), ("\u2009", " "), ("\u2013", "none")):
        text = text.replace(sign, name)
    return text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-0.0, "0"), (0.3124, "0.312"), (-0.3, "-0.300"), (12345.6, "12,346"), (0.0005, "5.00 x 10⁻⁴"),
     (-2.409e-7, "-2.41 x 10⁻⁷"), (1e12, "1.00 x 10¹²"), (9.996, "10.0"), (None, "none"), (float("nan"), "none")],
)  # fmt: skip
def test_scores(value: float | None, text: str) -> None:
    assert plain(number(value)) == text


def test_counts() -> None:
    assert integer(1234567) == "1,234,567"
    assert integer(-1) == f"{MINUS}1"
    assert power_of_ten(-12) == "10⁻¹²"


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(1, 10, "10 %"), (1, 3, "33.3 %"), (0, 5, "0 %"), (5, 5, "100 %"), (1, 10_000, "< 0.1 %"),
     (9_999, 10_000, "> 99.9 %"), (0, 0, "none")],
)  # fmt: skip
def test_shares(part: int, whole: int, text: str) -> None:
    assert plain(percent(part, whole)) == text
