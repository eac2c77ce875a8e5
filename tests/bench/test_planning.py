"""The bench of planning measures each step in a process of its own, and counts what that reads."""

from __future__ import annotations

from pathlib import Path

from bench.planning import POLICY, ROOT, Measured, compare, fill, measure


def test_every_step_runs_and_its_readings_are_counted(tmp_path: Path) -> None:
    size = fill(tmp_path, 250, 100)
    found = {step: measure(ROOT, step, tmp_path, POLICY, 0.0) for step in ("plan", "report", "judge", "sort")}
    assert {step: one.reads for step, one in found.items()} == {"plan": 4, "report": 3, "judge": 3, "sort": 0}
    assert found["judge"].read_bytes == size
    assert found["plan"].cpu > 0


def test_ratios_are_those_of_the_rounds() -> None:
    now = [Measured(1.0, 2.0, 2048, 3, 1_000_000), Measured(3.0, 2.0, 2048, 3, 1_000_000)]
    before = [Measured(2.0, 4.0, 1024, 6, 1_000_000), Measured(2.0, 4.0, 1024, 6, 1_000_000)]
    assert compare(now, before, 1_000_000, 3) == [
        *("2.00", "2.00", "2.00", "2", "1.00", "1.0"),
        *("1.00 (0.50 to 1.50)", "0.50 (0.50 to 0.50)", "2.00 (2.00 to 2.00)", "0.50 (0.50 to 0.50)"),
    ]
