"""Samples of a corpus for the study of fit sizes, and the rows that its figure is drawn from."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import fit_size, growth
from docs import figures


def test_a_sample_has_every_member_of_its_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    growth.write_tar(tmp_path / "whole.tar", 0)
    pairs = fit_size.read([tmp_path / "whole.tar"])
    assert len(pairs) == growth.SHARD
    monkeypatch.setattr(fit_size, "SHARD", 3)
    drawn = [pairs[place] for place in (900, 5, 17, 3, 44)]
    paths = fit_size.write(drawn, tmp_path / "raw")
    again = [fit_size.read([Path(path)]) for path in paths]
    assert [len(shard) for shard in again] == [3, 2]
    for before, after in zip(drawn, (pair for shard in again for pair in shard), strict=True):
        assert [data for _, data in before] == [data for _, data in after]
        assert [member.name.partition(".")[2] for member, _ in after] == ["jpg", "txt", "json"]


def test_the_figure_has_the_rows_of_the_page() -> None:
    rows = figures.fit_sizes()
    assert len(rows) > 2
    assert [row.pairs for row in rows] == sorted({row.pairs for row in rows})
    assert all(least <= row.errors[0] <= most for row in rows for least, most in [row.spread])
    assert all(0 <= error <= 1 for row in rows for error in row.errors[1:])
