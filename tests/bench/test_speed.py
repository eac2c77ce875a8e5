"""How times are taken and put into cells."""

from __future__ import annotations

from bench.method.speed import in_turn, spread


def test_variants_take_turns_and_the_first_round_is_left_out() -> None:
    calls: list[str] = []
    found = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 2, "b": 2}
    assert all(second >= 0 for seconds in found.values() for second in seconds)


def test_ratios_are_taken_within_a_round() -> None:
    """The second round was ten times as slow for both: that is no spread of the ratio."""
    assert spread([2.0, 20.0, 6.0], [1.0, 10.0, 2.0]) == "2.00 (2.00 to 3.00)"
    assert spread([1.0], [3.0], 1) == "0.3 (0.3 to 0.3)"
