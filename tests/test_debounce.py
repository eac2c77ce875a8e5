"""When it is time to speak, by a clock that the test holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ecif.debounce import Debounce


def test_a_place_is_due_when_it_has_been_quiet() -> None:
    waiting: Debounce[int] = Debounce(quiet=10, longest=100)
    waiting.add("a", 1, now=0)
    waiting.add("b", 2, now=4)
    waiting.add("a", 3, now=5)
    assert (waiting.due(13), waiting.due(14), waiting.due(15)) == ([], ["b"], ["a", "b"])
    assert (waiting.receipts("a"), len(waiting), waiting.places()) == ([1, 3], 3, ["a", "b"])
    waiting.forget("a")
    assert (waiting.due(15), len(waiting)) == (["b"], 1)


def test_what_never_becomes_quiet_is_due_all_the_same() -> None:
    waiting: Debounce[int] = Debounce(quiet=10, longest=30)
    for now in range(0, 30, 5):
        waiting.add("a", now, now)
        assert waiting.due(now) == []
    assert waiting.due(30) == ["a"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 20)), max_size=30))
def test_every_receipt_is_given_back_once(arrivals: list[tuple[str, float]]) -> None:
    waiting: Debounce[int] = Debounce(quiet=5, longest=50)
    now, back = 0.0, []
    for number, (place, pause) in enumerate(arrivals):
        now += pause
        for due in waiting.due(now):
            back += waiting.receipts(due)
            waiting.forget(due)
        waiting.add(place, number, now)
    for due in waiting.due(now + 6):
        back += waiting.receipts(due)
        waiting.forget(due)
    assert sorted(back) == list(range(len(arrivals)))
