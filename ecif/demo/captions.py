"""Sentences about scenes: "two small red circles above a large blue square on a grey striped background".

Every sentence names all eleven facts of its scene, so that a caption is either one of the right ones or
wrong; the wording varies only in which group is named first and where the background stands.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ecif.demo.scenes import Group, Scene

_NUMBERS = {1: "one", 2: "two", 3: "three"}
_OPPOSITE = {"above": "below", "left of": "right of"}
# Words that carry no fact of the scene.
FUNCTION_WORDS = frozenset({"of", "on", "a", "background"})


@dataclass(frozen=True, slots=True)
class Wording:
    """How a caption says it, apart from what it says."""

    turned: bool = False  # the second group is named first: "B below A"
    ground_first: bool = False  # "on a grey striped background A above B"


WORDINGS = tuple(Wording(turned, ground_first) for turned in (False, True) for ground_first in (False, True))


def caption(scene: Scene, wording: Wording) -> str:
    """The right caption of a scene in one wording."""
    one, relation, other = scene.first, scene.axis, scene.second
    if wording.turned:
        one, relation, other = other, _OPPOSITE[scene.axis], one
    objects = f"{_group(one)} {relation} {_group(other)}"
    ground = f"on a {scene.ground} {scene.pattern} background"
    return f"{ground} {objects}" if wording.ground_first else f"{objects} {ground}"


def right_captions(scene: Scene) -> frozenset[str]:
    """All captions that are right for a scene; any other caption is a mistake."""
    return frozenset(caption(scene, wording) for wording in WORDINGS)


def wording(rng: random.Random) -> Wording:
    return rng.choice(WORDINGS)


def _group(group: Group) -> str:
    shape = group.shape if group.count == 1 else {"cross": "crosses"}.get(group.shape, group.shape + "s")
    return f"{_NUMBERS[group.count]} {group.colour} {shape}"
