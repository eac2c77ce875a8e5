"""The fuzz run reaches every target, and keeps the input that breaks an invariant."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.fuzz import TARGETS, Fuzz
from tests.shards import invariants


def test_a_hundred_cases_of_each_target_hold(tmp_path: Path) -> None:
    fuzz = Fuzz(tmp_path, 1, size=20)
    for name in TARGETS:
        for _ in range(100):
            fuzz.once(name)
        assert len(fuzz.outcomes[name]) > 1, "damage makes no difference"
    assert dict(fuzz.cases) == dict.fromkeys(TARGETS, 100)
    assert not fuzz.failed
    assert list(tmp_path.iterdir()) == []


def test_what_breaks_an_invariant_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> str:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(invariants, "check_record", broken)
    fuzz = Fuzz(tmp_path, 1, size=1)
    fuzz.once("record")
    assert (fuzz.failed["record"], dict(fuzz.outcomes["record"])) == (1, {"FAILED: ZeroDivisionError": 1})
    saved, said = sorted(tmp_path.iterdir())
    assert (saved.suffix, said.suffix) == (".bin", ".txt")
    assert "planted" in said.read_text()
