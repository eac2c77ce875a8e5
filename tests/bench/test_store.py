"""Measurements that were interrupted go on where they stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.method.store import Store


def test_a_value_is_computed_once_and_found_again(tmp_path: Path) -> None:
    calls = []

    def compute() -> dict[str, int]:
        calls.append(1)
        return {"answer": 42}

    file = tmp_path / "deeper" / "results.jsonl"
    assert Store(file).once({"seed": 0, "what": "x"}, compute) == {"answer": 42}
    assert Store(file).once({"what": "x", "seed": 0}, compute) == {"answer": 42}
    assert len(calls) == 1
    assert Store(file).get({"what": "x", "seed": 1}) is None


def test_the_same_from_memory_and_from_the_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "results.jsonl")
    store.put({"k": 1}, {"tuple": (1, 2), "number": 0.1})
    assert store.get({"k": 1}) == Store(store.path).get({"k": 1}) == {"tuple": [1, 2], "number": 0.1}


def test_a_line_that_was_cut_off_is_computed_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "results.jsonl")
    store.put({"k": 1}, {"v": 1})
    store.put({"k": 2}, {"v": 2})
    store.path.write_bytes(store.path.read_bytes()[:-5])
    again = Store(store.path)
    assert again.get({"k": 1}) == {"v": 1}
    assert again.get({"k": 2}) is None
    again.put({"k": 2}, {"v": 3})
    last = Store(store.path)
    assert (last.get({"k": 1}), last.get({"k": 2})) == ({"v": 1}, {"v": 3})


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "results.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        store.put({"k": 1}, {"v": float("nan")})
    assert len(Store(store.path)) == 0
