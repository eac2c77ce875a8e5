"""Planting the four kinds of mistake, each in the way it promises and never right by accident.

    swap_random    pairs of unrelated scenes trade captions in a ring
    swap_similar   two pairs whose scenes differ in as few facts as the corpus allows trade captions
    drop_words     a third to a half of the words that carry facts are missing
    edit_word      one fact is changed, in the wording of the right caption

Swapping rather than copying keeps every full caption of the corpus unique: no false negatives come in by the way.
Every caption is checked against the closed set of its scene's right captions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np

from ecif.demo.captions import FUNCTION_WORDS, caption, right_captions
from ecif.demo.scenes import AXES, COLOURS, COUNTS, GROUNDS, PATTERNS, SHAPES, Group, Scene

KINDS = ("swap_random", "swap_similar", "drop_words", "edit_word")
CLEAN = "clean"

V = TypeVar("V")

_FACTS: tuple[str | int, ...] = (*COUNTS, *COLOURS, *SHAPES, *AXES, *GROUNDS, *PATTERNS)


@dataclass(frozen=True, slots=True)
class Pair:
    """A scene with the caption it goes into the corpus with.

    Attributes:
        original: the right caption. kind: `CLEAN`, or one of `KINDS`.
    """

    scene: Scene
    original: str
    caption: str
    kind: str


def plant(scenes: Sequence[Scene], wrong: float, rng: random.Random) -> list[Pair]:
    """Caption the scenes, a part of them mistakenly; the result is in the order of `scenes`.

    Args:
        scenes: all different.
        wrong: fraction in [0, 1/2]; each kind gets a fourth of it, rounded to an even number of pairs.

    Raises:
        ValueError: two scenes are the same, or the fraction is out of its range.
    """
    if not 0 <= wrong <= 0.5:
        raise ValueError(f"the fraction of mistakes lies in [0, 1/2], not {wrong}")
    if len(set(scenes)) != len(scenes):
        raise ValueError("the scenes of a corpus must all be different")
    turned = [rng.random() < 0.5 for _ in scenes]
    originals = [caption(scene, turn) for scene, turn in zip(scenes, turned, strict=True)]
    pairs = [Pair(scene, text, text, CLEAN) for scene, text in zip(scenes, originals, strict=True)]
    each = 2 * round(wrong * len(pairs) / len(KINDS) / 2)
    order = list(range(len(pairs)))
    rng.shuffle(order)

    def spoil(i: int, text: str, kind: str) -> None:
        if text in right_captions(scenes[i]):
            raise AssertionError(f"{kind}: {text!r} is right for {scenes[i]}")
        pairs[i] = replace(pairs[i], caption=text, kind=kind)

    for i, j in _neighbours(scenes, order, each // 2):
        spoil(i, originals[j], "swap_similar")
        spoil(j, originals[i], "swap_similar")
    rest = (i for i in order if pairs[i].kind == CLEAN)
    ring = list(islice(rest, each))
    for i, j in zip(ring, ring[1:] + ring[:1], strict=True):
        spoil(i, originals[j], "swap_random")
    for i in islice(rest, each):
        spoil(i, drop_words(originals[i], rng), "drop_words")
    for i in islice(rest, each):
        spoil(i, caption(change_one_fact(scenes[i], rng), turned[i]), "edit_word")
    return pairs


def _neighbours(scenes: Sequence[Scene], order: Sequence[int], wanted: int) -> list[tuple[int, int]]:
    """`wanted` disjoint pairs of scenes: each of `order` in turn takes the nearest scene that is left."""
    facts_NF = np.array([[_FACTS.index(fact) for fact in scene.facts()] for scene in scenes])
    left_N = np.ones(len(scenes), dtype=bool)
    found: list[tuple[int, int]] = []
    for i in order:
        if len(found) == wanted:
            break
        if left_N[i]:
            left_N[i] = False
            j = int(np.where(left_N, (facts_NF != facts_NF[i]).sum(axis=1), facts_NF.shape[1] + 1).argmin())
            left_N[j] = False
            found.append((i, j))
    return found


def drop_words(text: str, rng: random.Random) -> str:
    """The text without a third to a half of the words that carry facts; the others stay in their order."""
    words = text.split()
    telling = [i for i, word in enumerate(words) if word not in FUNCTION_WORDS]
    gone = set(rng.sample(telling, rng.randint(-(-len(telling) // 3), len(telling) // 2)))
    return " ".join(word for i, word in enumerate(words) if i not in gone)


def change_one_fact(scene: Scene, rng: random.Random) -> Scene:
    """Another scene that differs in one fact; where the changed fact is the place, the groups may trade places."""
    what = rng.choice(("count", "colour", "shape", "place", "ground", "pattern"))
    if what == "place":
        turned = replace(scene, axis=_other(AXES, scene.axis, rng))
        return rng.choice((turned, replace(scene, first=scene.second, second=scene.first)))
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


def _other(values: Sequence[V], value: V, rng: random.Random) -> V:
    return rng.choice([v for v in values if v != value])
