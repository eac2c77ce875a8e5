"""Scenes of coloured shapes: what is in them, and how they look.

A scene is two groups of equal objects, one above or left of the other, on a patterned ground: eleven facts,
each visible in 64 x 64 pixels. Few facts with few values each are what a small model can learn from a few
thousand pairs in two minutes; binding (which colour belongs to which shape, and where) is what makes them
compositional. Rendering draws at three times the size and averages, about 1 ms a scene.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import count as naturals
from math import cos, pi, sin
from typing import Literal

from PIL import Image, ImageDraw

SIDE = 64  # pixels of a rendered scene
_FINE = 3  # drawn at this many times the size, then averaged: antialiasing

COUNTS = (1, 2, 3)
COLOURS = {
    "red": (214, 36, 36),
    "green": (40, 160, 60),
    "blue": (36, 76, 214),
    "yellow": (240, 210, 40),
    "purple": (140, 50, 170),
}
SHAPES = ("circle", "triangle", "ring", "cross")
AXES = ("above", "left of")
GROUNDS = {"white": (244, 244, 244), "grey": (150, 150, 150), "brown": (120, 82, 52)}
PATTERNS = ("plain", "striped", "checked")

RGB = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Group:
    """Equal objects: `count` of one colour and shape."""

    count: int
    colour: str
    shape: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What is in a picture. `first` lies above or left of `second`: one picture has one description."""

    first: Group
    second: Group
    axis: Literal["above", "left of"] | str
    ground: str
    pattern: str

    def facts(self) -> tuple[str | int, ...]:
        """The eleven facts in a fixed order, for counting differences."""
        return (*astuple(self.first), *astuple(self.second), self.axis, self.ground, self.pattern)


def differences(one: Scene, other: Scene) -> int:
    """In how many of the eleven facts two scenes differ."""
    return sum(a != b for a, b in zip(one.facts(), other.facts(), strict=True))


def scenes(rng: random.Random) -> Iterator[Scene]:
    """Endless scenes, no two alike; the groups of a scene differ in colour and in shape."""
    seen: set[Scene] = set()
    while True:
        colours, shapes = rng.sample(tuple(COLOURS), 2), rng.sample(SHAPES, 2)
        first, second = (
            Group(rng.choice(COUNTS), colour, shape)
            for colour, shape in zip(colours, shapes, strict=True)
        )
        scene = Scene(first, second, rng.choice(AXES), rng.choice(tuple(GROUNDS)), rng.choice(PATTERNS))
        if scene not in seen:
            seen.add(scene)
            yield scene


def render(scene: Scene, rng: random.Random) -> Image.Image:
    """Draw a scene, 64 x 64 RGB; places, sizes, angles and tints vary a little with `rng`."""
    side = SIDE * _FINE
    image = Image.new("RGB", (side, side), _tint(GROUNDS[scene.ground], rng))
    draw = ImageDraw.Draw(image)
    _draw_pattern(draw, scene, rng)
    for half, group in enumerate((scene.first, scene.second)):
        _draw_group(draw, group, scene.axis, half, rng)
    return image.reduce(_FINE)


def _tint(colour: RGB, rng: random.Random, spread: int = 10) -> RGB:
    red, green, blue = (min(255, max(0, part + rng.randint(-spread, spread))) for part in colour)
    return red, green, blue


def _draw_pattern(draw: ImageDraw.ImageDraw, scene: Scene, rng: random.Random) -> None:
    side, step = SIDE * _FINE, 8 * _FINE
    base = GROUNDS[scene.ground]
    # The pattern is a darker (on black: lighter) shade of its ground, weaker than any object's contrast.
    shade = _tint(tuple(part + 44 if sum(base) < 150 else part - 34 for part in base), rng, 6)  # type: ignore[arg-type]
    shift = rng.randrange(step)
    if scene.pattern == "striped":
        for x in range(-side - shift, side, 2 * step):
            draw.polygon([(x, side), (x + step, side), (x + step + side, 0), (x + side, 0)], fill=shade)
    elif scene.pattern == "checked":
        for column, x in enumerate(range(-shift, side, step)):
            for row, y in enumerate(range(-shift, side, step)):
                if (column + row) % 2:
                    draw.rectangle([x, y, x + step - 1, y + step - 1], fill=shade)


def _draw_group(draw: ImageDraw.ImageDraw, group: Group, axis: str, half: int, rng: random.Random) -> None:
    """A row in the upper or lower half, or a column in the left or right half."""
    radius = 8 * _FINE
    fill = _tint(COLOURS[group.colour], rng)
    pitch = SIDE * _FINE / 3
    along_start = SIDE * _FINE / 2 - pitch * (group.count - 1) / 2
    for index in range(group.count):
        along = along_start + pitch * index + rng.uniform(-1.5, 1.5) * _FINE
        across = SIDE * _FINE * (0.27 if half == 0 else 0.73) + rng.uniform(-3, 3) * _FINE
        x, y = (along, across) if axis == "above" else (across, along)
        _draw_shape(draw, group.shape, x, y, radius * rng.uniform(0.85, 1.15), rng.uniform(-0.15, 0.15), fill)


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, angle: float, fill: RGB
) -> None:
    box = [x - radius, y - radius, x + radius, y + radius]
    if shape == "circle":
        draw.ellipse(box, fill=fill)
        return
    if shape == "ring":
        draw.ellipse(box, outline=fill, width=round(radius * 0.4))
        return
    corners = [
        (x + radius * scale * sin(turn * 2 * pi + angle), y - radius * scale * cos(turn * 2 * pi + angle))
        for turn, scale in _CORNERS[shape]
    ]
    draw.polygon(corners, fill=fill)


def _cross() -> list[tuple[float, float]]:
    # Twelve corners of a plus sign whose bars are 0.7 radii wide.
    width, reach = 0.36, 1.1
    outer, inner = (width**2 + reach**2) ** 0.5, width * 2**0.5
    from math import atan2

    lean = atan2(width, reach) / (2 * pi)
    arms = ((quarter / 4, lean) for quarter in range(4))
    return [
        corner
        for turn, lean in arms
        for corner in ((turn - lean, outer), (turn + lean, outer), (turn + 1 / 8, inner))
    ]


# Corners as (turn clockwise from the top, distance in radii).
_CORNERS: dict[str, list[tuple[float, float]]] = {
    "triangle": [(0, 1.25), (1 / 3, 1.25), (2 / 3, 1.25)],
    "cross": _cross(),
}
