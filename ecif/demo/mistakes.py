"""Planting the four kinds of mistake, each in the way it promises and never right by accident.

    swap_random    two or more pairs whose scenes have nothing to do with each other trade captions in a ring
    swap_similar   two pairs whose scenes differ in as few facts as the corpus allows trade captions
    drop_words     a third to a half of the words that carry facts are missing
    edit_word      one fact is changed, in the wording of the right caption

Swapping rather than copying keeps every caption of the corpus unique: no false negatives are planted by the way.
Every mistake is checked against the closed set of the scene's right captions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ecif.demo.captions import FUNCTION_WORDS, Wording, caption, right_captions
from ecif.demo.scenes import AXES, COLOURS, COUNTS, GROUNDS, PATTERNS, SHAPES, Group, Scene

T = TypeVar("T")

KINDS = ("swap_random", "swap_similar", "drop_words", "edit_word")
CLEAN = "clean"


@dataclass(frozen=True, slots=True)
class Pair:
    """A scene with the caption it goes into the corpus with."""

    scene: Scene
    wording: Wording
    caption: str
    kind: str  # CLEAN or one of KINDS

    @property
    def original(self) -> str:
        """The right caption."""
        return caption(self.scene, self.wording)


def plant(scenes: Sequence[Scene], wordings: Sequence[Wording], wrong: float, rng: random.Random) -> list[Pair]:
    """Caption the scenes, `wrong` of them mistakenly, in equal parts for each kind.

    Args:
        scenes: all different.
        wordings: one for each scene.
        wrong: fraction in [0, 1/2]; each kind gets round(wrong * n / 4) pairs, made even for the swaps.
    """
    if len(set(scenes)) != len(scenes):
        raise ValueError("scenes must all be different")
    pairs = [Pair(s, w, caption(s, w), CLEAN) for s, w in zip(scenes, wordings, strict=True)]
    each = round(wrong * len(pairs) / len(KINDS) / 2) * 2
    free = list(range(len(pairs)))
    rng.shuffle(free)

    for one, other in _neighbours(scenes, free, each // 2):
        _trade(pairs, (one, other), "swap_similar")
    taken = {i for i, pair in enumerate(pairs) if pair.kind != CLEAN}
    rest = iter([i for i in free if i not in taken])
    _trade(pairs, [next(rest) for _ in range(each)], "swap_random")
    for _ in range(each):
        i = next(rest)
        pairs[i] = replace(pairs[i], caption=drop_words(pairs[i].caption, rng), kind="drop_words")
    for _ in range(each):
        i = next(rest)
        changed = change_one_fact(pairs[i].scene, rng)
        pairs[i] = replace(pairs[i], caption=caption(changed, pairs[i].wording), kind="edit_word")

    for pair in pairs:
        if (pair.kind == CLEAN) != (pair.caption in right_captions(pair.scene)):
            raise AssertionError(f"{pair.kind}: {pair.caption!r} for {pair.scene}")
    return pairs


def _trade(pairs: list[Pair], ring: Sequence[int], kind: str) -> None:
    """Each pair of the ring gets the caption of the next."""
    captions = [pairs[i].original for i in ring]
    for i, other in zip(ring, captions[1:] + captions[:1], strict=True):
        pairs[i] = replace(pairs[i], caption=other, kind=kind)


def _neighbours(scenes: Sequence[Scene], order: Sequence[int], wanted: int) -> list[tuple[int, int]]:
    """`wanted` disjoint pairs of scenes that differ in few facts: each of `order` takes the nearest one left."""
    facts = np.array([[_number(fact) for fact in scene.facts()] for scene in scenes])  # (n, 11)
    left = np.ones(len(scenes), dtype=bool)
    found: list[tuple[int, int]] = []
    for i in order:
        if len(found) == wanted:
            break
        if not left[i]:
            continue
        apart = (facts != facts[i]).sum(axis=1)
        apart[~left] = facts.shape[1] + 1
        apart[i] = facts.shape[1] + 1
        j = int(apart.argmin())
        left[[i, j]] = False
        found.append((i, j))
    return found


_VALUES: tuple[str | int, ...] = (*COUNTS, *COLOURS, *SHAPES, *AXES, *GROUNDS, *PATTERNS)


def _number(fact: str | int) -> int:
    """A fact as a number: its place among all values (Python's own hash of a string differs between runs)."""
    return _VALUES.index(fact)


def drop_words(text: str, rng: random.Random) -> str:
    """The text without a third to a half of the words that carry facts; the order of the rest stays."""
    words = text.split()
    telling = [i for i, word in enumerate(words) if word not in FUNCTION_WORDS]
    n = rng.randint(-(-len(telling) // 3), len(telling) // 2)
    gone = set(rng.sample(telling, n))
    return " ".join(word for i, word in enumerate(words) if i not in gone)


def change_one_fact(scene: Scene, rng: random.Random) -> Scene:
    """Another scene that differs in exactly one fact, or has its two groups the other way round."""
    what = rng.choice(("count", "colour", "shape", "place", "ground", "pattern"))
    if what == "place":
        return rng.choice((
            replace(scene, first=scene.second, second=scene.first),
            replace(scene, axis=_other(AXES, scene.axis, rng)),
        ))
    if what == "ground":
        return replace(scene, ground=_other(tuple(GROUNDS), scene.ground, rng))
    if what == "pattern":
        return replace(scene, pattern=_other(PATTERNS, scene.pattern, rng))
    if rng.random() < 0.5:
        return replace(scene, first=_change_group(scene.first, what, rng))
    return replace(scene, second=_change_group(scene.second, what, rng))


def _change_group(group: Group, what: str, rng: random.Random) -> Group:
    if what == "count":
        return replace(group, count=_other(COUNTS, group.count, rng))
    if what == "colour":
        return replace(group, colour=_other(tuple(COLOURS), group.colour, rng))
    return replace(group, shape=_other(SHAPES, group.shape, rng))


def _other(values: Sequence[T], value: T, rng: random.Random) -> T:
    return rng.choice([v for v in values if v != value])
