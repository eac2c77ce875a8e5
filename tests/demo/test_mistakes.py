"""Each kind of mistake changes the caption as it promises, and never into a right one."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecif.demo.captions import FUNCTION_WORDS, caption, right_captions
from ecif.demo.mistakes import CLEAN, KINDS, Pair, change_one_fact, drop_words, plant
from ecif.demo.scenes import Group, Scene, differences, scenes

SCENE = Scene(Group(2, "red", "circle"), Group(1, "blue", "cross"), "left of", "grey", "striped")


def _planted(n: int, wrong: float, seed: int) -> list[Pair]:
    rng = random.Random(seed)
    return plant(list(islice(scenes(rng), n)), wrong, rng)


def _distance(pair: Pair, pairs: list[Pair]) -> int:
    """Facts between the scene of a pair and the scene that its caption is right for."""
    return min(differences(pair.scene, other.scene) for other in pairs if other.original == pair.caption)


def _slots(text: str) -> tuple[str, ...]:
    """Nine words: count, colour, shape, relation, count, colour, shape, ground, pattern."""
    number, shape = "(one|two|three)", "(circle|triangle|ring|cross)(?:e?s)?"
    group = rf"{number} ([a-z]+) {shape}"
    match = re.fullmatch(rf"{group} (above|below|left of|right of) {group} on a (\w+) (\w+) background", text)
    assert match is not None, text
    return match.groups()


def test_captions() -> None:
    assert right_captions(SCENE) == {
        "two red circles left of one blue cross on a grey striped background",
        "one blue cross right of two red circles on a grey striped background",
    }
    three = Scene(Group(3, "blue", "cross"), Group(1, "red", "ring"), "above", "white", "plain")
    assert caption(three, True) == "one red ring below three blue crosses on a white plain background"


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 300), st.floats(0, 0.5), st.integers(0, 2**32))
def test_mistakes_are_wrong_and_everything_else_is_right(n: int, wrong: float, seed: int) -> None:
    pairs = _planted(n, wrong, seed)
    counts = Counter(pair.kind for pair in pairs)
    assert set(counts) <= {CLEAN, *KINDS}
    assert {counts[kind] for kind in KINDS} == {2 * round(wrong * n / 8)}
    for pair in pairs:
        assert pair.original in right_captions(pair.scene)
        assert (pair.caption in right_captions(pair.scene)) == (pair.kind == CLEAN)


def test_each_kind_keeps_its_promise() -> None:
    pairs = _planted(600, 0.16, 3)
    swapped = [pair for pair in pairs if pair.kind.startswith("swap")]
    assert sorted(pair.caption for pair in swapped) == sorted(pair.original for pair in swapped)
    far, near = ([_distance(p, pairs) for p in pairs if p.kind == kind] for kind in ("swap_random", "swap_similar"))
    assert sum(near) / len(near) < 2.5 < 4.5 < sum(far) / len(far)
    for pair in pairs:
        before, after = pair.original.split(), pair.caption.split()
        if pair.kind == "drop_words":
            rest = iter(before)
            assert all(word in rest for word in after)
            telling = sum(word not in FUNCTION_WORDS for word in before)
            assert telling / 3 <= len(before) - len(after) <= telling / 2
        if pair.kind == "edit_word":
            told, right = _slots(pair.caption), _slots(pair.original)
            changed = [slot for slot in range(9) if told[slot] != right[slot]]
            traded = (*right[4:7], right[3], *right[:3], *right[7:])
            assert len(changed) == 1 or told == traded


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_one_fact_changes(seed: int) -> None:
    rng = random.Random(seed)
    changed = change_one_fact(SCENE, rng)
    traded = (changed.first, changed.second) == (SCENE.second, SCENE.first)
    assert differences(SCENE, changed) == 1 or (traded and changed.axis == SCENE.axis)
    assert not right_captions(changed) & right_captions(SCENE)


def test_every_fact_gets_changed() -> None:
    rng = random.Random(0)
    changed = {
        place for _ in range(300) for place, (old, new) in
        enumerate(zip(SCENE.facts(), change_one_fact(SCENE, rng).facts(), strict=True)) if old != new
    }  # fmt: skip
    assert changed == set(range(9))


def test_dropping_leaves_function_words() -> None:
    text = caption(SCENE, False)
    for seed in range(50):
        left = drop_words(text, random.Random(seed)).split()
        assert [word for word in left if word in FUNCTION_WORDS] == ["of", "on", "a", "background"]


def test_equal_scenes_and_wrong_fractions_are_refused() -> None:
    rng = random.Random(0)
    with pytest.raises(ValueError, match="all be different"):
        plant([SCENE, SCENE], 0.0, rng)
    with pytest.raises(ValueError, match=r"\[0, 1/2\]"):
        plant([SCENE], 0.7, rng)
