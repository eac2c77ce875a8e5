"""Sentences about scenes: "two red circles above one blue ring on a grey striped background".

Every sentence names all nine facts of its scene, so that a caption is either one of the two right ones or wrong. The
wording varies only in which group is named first; more variety made the model spend its two minutes on grammar.
"""

from __future__ import annotations

from ecif.demo.scenes import Group, Scene

# Words that carry no fact of the scene.
FUNCTION_WORDS = frozenset({"of", "on", "a", "background"})

_NUMBERS = {1: "one", 2: "two", 3: "three"}
_OPPOSITE = {"above": "below", "left of": "right of"}


def caption(scene: Scene, turned: bool) -> str:
    """A right caption; `turned` names the second group first ("B below A" for "A above B")."""
    one, relation, other = scene.first, scene.axis, scene.second
    if turned:
        one, relation, other = other, _OPPOSITE[relation], one
    return f"{_group(one)} {relation} {_group(other)} on a {scene.ground} {scene.pattern} background"


def right_captions(scene: Scene) -> frozenset[str]:
    """All captions that are right for a scene; any other caption is a mistake."""
    return frozenset({caption(scene, False), caption(scene, True)})


def _group(group: Group) -> str:
    ending = "" if group.count == 1 else "es" if group.shape == "cross" else "s"
    return f"{_NUMBERS[group.count]} {group.colour} {group.shape}{ending}"
