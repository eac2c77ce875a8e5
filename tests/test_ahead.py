"""Reading ahead changes neither order nor errors, and holds only a few results."""

from __future__ import annotations

import pytest

from ecif.ahead import ahead


def test_results_come_in_order() -> None:
    assert list(ahead(lambda n: n * n, range(100))) == [n * n for n in range(100)]
    assert list(ahead(str, [])) == []


def test_an_error_comes_in_its_turn() -> None:
    results = ahead(lambda n: 6 // (3 - n), range(10))
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_it_runs_only_a_few_steps_ahead() -> None:
    items = iter(range(1_000))
    results = ahead(lambda n: n, items, depth=4)
    assert next(results) == 0
    results.close()
    assert next(items) == 5
