"""Scenes are unique, and what is in them can be seen."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from ecif.demo.scenes import COLOURS, SIDE, Group, Scene, differences, render, scenes

SCENE = Scene(Group(2, "red", "circle"), Group(1, "blue", "ring"), "above", "white", "plain")


def _pixels(scene: Scene, seed: int = 0) -> np.ndarray:
    return np.asarray(render(scene, random.Random(seed)), dtype=np.int16)


def _share(pixels: np.ndarray, colour: str) -> float:
    """Fraction of pixels near a colour."""
    return float((np.abs(pixels - np.array(COLOURS[colour])).max(axis=-1) < 40).mean())


def test_no_scene_comes_twice_and_groups_differ() -> None:
    drawn = list(islice(scenes(random.Random(1)), 3_000))
    assert len(set(drawn)) == 3_000
    assert all(s.first.colour != s.second.colour and s.first.shape != s.second.shape for s in drawn)


def test_drawing_is_the_same_for_the_same_seed() -> None:
    assert list(islice(scenes(random.Random(1)), 50)) == list(islice(scenes(random.Random(1)), 50))
    assert (_pixels(SCENE, 3) == _pixels(SCENE, 3)).all()
    assert (_pixels(SCENE, 3) != _pixels(SCENE, 4)).any()


def test_differences_counts_facts() -> None:
    assert differences(SCENE, SCENE) == 0
    assert differences(SCENE, replace(SCENE, ground="grey", axis="left of")) == 2
    assert differences(SCENE, replace(SCENE, first=Group(3, "green", "cross"))) == 3


def test_a_group_is_where_the_scene_says_and_nowhere_else() -> None:
    half = SIDE // 2
    pixels = _pixels(SCENE)
    assert pixels.shape == (SIDE, SIDE, 3)
    assert _share(pixels[:half], "red") > 0.1 > _share(pixels[half:], "red") == 0
    assert _share(pixels[half:], "blue") > 0.02 > _share(pixels[:half], "blue") == 0
    beside = _pixels(replace(SCENE, axis="left of"))
    assert _share(beside[:, :half], "red") > 0.1 > _share(beside[:, half:], "red") == 0


def test_more_objects_cover_more() -> None:
    shares = [_share(_pixels(replace(SCENE, first=Group(n, "red", "circle"))), "red") for n in (1, 2, 3)]
    assert shares[1] > 1.5 * shares[0]
    assert shares[2] > 1.2 * shares[1]


@pytest.mark.parametrize("pattern", ["striped", "checked"])
def test_patterns_show_on_every_ground(pattern: str) -> None:
    for ground in ("white", "grey", "brown"):
        plain, patterned = (_pixels(replace(SCENE, ground=ground, pattern=p)) for p in ("plain", pattern))
        edge = np.s_[:4]  # no object reaches the upper edge
        assert plain[edge].std(axis=(0, 1)).max() < 1
        assert patterned[edge].std(axis=(0, 1)).min() > 5


def test_shapes_look_different() -> None:
    looks = {s: _pixels(replace(SCENE, first=Group(1, "red", s))) for s in ("circle", "triangle", "ring", "cross")}
    assert _share(looks["circle"], "red") > _share(looks["ring"], "red")
    assert len({look.tobytes() for look in looks.values()}) == 4
