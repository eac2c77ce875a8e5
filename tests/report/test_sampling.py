"""Few of many rows are those of sorting all of them, in whatever parts and order they come, and few are held."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecif.report import sampling
from ecif.report.sampling import Drawn, Outermost, Places, Rows
from ecif.scores import IDENTITY

parts = st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=20), max_size=6)


def table(number: int, rows: list[tuple[str, int]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "uid": ["u"] * len(rows),
            "key": [str(n % 3) for n in range(len(rows))],
            "shard": [f"s{number}"] * len(rows),
            "index": range(len(rows)),
            "status": ["ok" if name == "a" else name for name, _ in rows],
            "draw": [value for _, value in rows],
            "value": [float("nan") if value == 9 else value / 2 for _, value in rows],
        },
        schema_overrides={
            **dict.fromkeys(("uid", "key", "shard"), pl.String),
            "draw": pl.UInt64,
            "index": pl.UInt32,
            "value": pl.Float64,
            "status": pl.String,
        },
    )


def rows_of(one: pl.DataFrame) -> Rows:
    return lambda places: one[places]


@settings(max_examples=150, deadline=None)
@given(parts, st.integers(1, 8), st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_sample_is_the_smallest_draws_of_each_status(
    rows: list[list[tuple[str, int]]], scored: int, others: int, random: object
) -> None:
    tables = [table(number, part) for number, part in enumerate(rows)]
    shuffled = [*tables]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_TOGETHER", 7)
        drawn = Drawn(scored, others)
        again = Drawn(scored, others)
        for n, one in enumerate(shuffled):
            drawn.add(one["status"], one["draw"].to_numpy(), rows_of(one))
            assert drawn.rows is not None
            if n == len(shuffled) // 2:  # another run goes on with what the first one kept
                again.put(drawn.rows)
            elif n > len(shuffled) // 2:
                again.add(one["status"], one["draw"].to_numpy(), rows_of(one))
    if not tables:
        assert drawn.rows is None
        return
    every = pl.concat(tables).drop("value").sort("draw", *IDENTITY)
    expected = [
        row
        for name, size in (("ok", scored), ("b", others), ("c", others))
        for row in every.filter(pl.col("status") == name).head(size).rows()
    ]
    for found in (drawn.rows, again.rows):
        assert found is not None
        assert sorted(found.drop("value").rows()) == sorted(expected)
        assert found["draw"].is_sorted()


@settings(max_examples=150, deadline=None)
@given(parts, st.integers(0, 8), st.booleans(), st.randoms(use_true_random=False))
def test_the_outermost_are_those_of_sorting(
    rows: list[list[tuple[str, int]]], size: int, descending: bool, random: object
) -> None:
    tables = [table(number, part) for number, part in enumerate(rows)]
    shuffled = [*tables]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    outermost = Outermost("value", size, descending=descending)
    for one in shuffled:
        outermost.add(one["value"].to_numpy(), rows_of(one))
    if not tables:
        assert outermost.rows is None
        return
    every = pl.concat(tables).filter(pl.col("value").is_not_nan())
    assert outermost.rows is not None
    assert outermost.rows.equals(every.sort("value", *IDENTITY, descending=descending).head(size))


def test_what_waits_is_bounded_and_hopeless_rows_are_not_even_copied() -> None:
    random = np.random.default_rng(0)
    copied = most = 0

    class Noting(Drawn):
        def _wait(self, rows: pl.DataFrame) -> None:
            nonlocal most
            super()._wait(rows)
            most = max(most, self._waits + (0 if self._held is None else len(self._held)))

    drawn = Noting(100, 10)
    for number in range(200):
        one = table(number, [("a", 1)] * 1_000).with_columns(
            draw=pl.Series(random.integers(0, 2**63, 1_000), dtype=pl.UInt64)
        )

        def rows(places: Places, one: pl.DataFrame = one) -> pl.DataFrame:
            nonlocal copied
            copied += len(places)
            return one[places]

        drawn.add(one["status"], one["draw"].to_numpy(), rows)
    assert drawn.rows is not None
    assert len(drawn.rows) == 100
    assert copied <= 20_000  # of 200,000
    assert most <= sampling._TOGETHER + 1_000


def test_what_is_held_does_not_hold_the_tables_it_comes_from() -> None:
    """Ten rows of each of 200 tables with a megabyte of texts."""
    program = """
from pathlib import Path
import sys
import polars as pl
from ecif.report.sampling import owned

def resident():
    status = Path("/proc/self/status").read_text("utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024

def table(n):
    return pl.DataFrame({"uid": [f"{n:50d}{i:50d}" for i in range(10_000)]})

rows = [table(n)[:10].select(owned(pl.col("uid"))) for n in range(20)]
before = resident()
rows += [table(n)[:10].select(owned(pl.col("uid"))) for n in range(200)]
assert rows[5].equals(table(5)[:10])
print(resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 50
