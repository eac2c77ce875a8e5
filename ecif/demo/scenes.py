"""Scenes of coloured shapes: what is in them, and how they look.

A scene is two groups of equal objects, one above or left of the other, on a patterned ground: nine facts, each
visible in 64 x 64 pixels. Few facts with few values are what a small model learns from a few thousand pairs in two
minutes, and what makes a random batch hold captions that differ in little, without which shapes and counts are never
learnt. Binding (which colour belongs to which shape, and where) makes them compositional. Rendering draws at three
times the size and averages, 0.3 ms a scene.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from math import atan2, cos, hypot, pi, sin

from PIL import Image, ImageDraw

SIDE = 64  # pixels of a rendered scene
_FINE = 3  # drawn at this many times the size, then averaged: antialiasing

RGB = tuple[int, int, int]

COUNTS = (1, 2, 3)
COLOURS: dict[str, RGB] = {
    "red": (214, 36, 36),
    "green": (40, 160, 60),
    "blue": (36, 76, 214),
    "yellow": (240, 210, 40),
    "purple": (140, 50, 170),
}
SHAPES = ("circle", "triangle", "ring", "cross")
AXES = ("above", "left of")
GROUNDS: dict[str, RGB] = {"white": (244, 244, 244), "grey": (150, 150, 150), "brown": (120, 82, 52)}
PATTERNS = ("plain", "striped", "checked")


@dataclass(frozen=True, slots=True)
class Group:
    """Equal objects: `count` of one colour and shape."""

    count: int
    colour: str
    shape: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What is in a picture. `first` lies above or left of `second`, so that one picture is one scene."""

    first: Group
    second: Group
    axis: str
    ground: str
    pattern: str

    def facts(self) -> tuple[str | int, ...]:
        """The nine facts in a fixed order, for counting differences."""
        return (*astuple(self.first), *astuple(self.second), self.axis, self.ground, self.pattern)


def differences(one: Scene, other: Scene) -> int:
    """In how many of the nine facts two scenes differ."""
    return sum(a != b for a, b in zip(one.facts(), other.facts(), strict=True))


def scenes(rng: random.Random) -> Iterator[Scene]:
    """Scenes, no two alike, until all 38,880 are used up; the groups of a scene differ in colour and in shape."""
    seen: set[Scene] = set()
    possible = len(COLOURS) * (len(COLOURS) - 1) * len(SHAPES) * (len(SHAPES) - 1) * len(COUNTS) ** 2
    possible *= len(AXES) * len(GROUNDS) * len(PATTERNS)
    while len(seen) < possible:
        colours, shapes = rng.sample(tuple(COLOURS), 2), rng.sample(SHAPES, 2)
        first, second = (
            Group(rng.choice(COUNTS), colour, shape) for colour, shape in zip(colours, shapes, strict=True)
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
    """Stripes or squares in a darker shade of the ground, weaker than the contrast of any object."""
    side, step = SIDE * _FINE, 8 * _FINE
    red, green, blue = GROUNDS[scene.ground]
    shade = _tint((red - 34, green - 34, blue - 34), rng, 6)
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
    side = SIDE * _FINE
    fill = _tint(COLOURS[group.colour], rng)
    pitch = side / 3
    for index in range(group.count):
        along = side / 2 + pitch * (index - (group.count - 1) / 2) + rng.uniform(-1.5, 1.5) * _FINE
        across = side * (0.27 if half == 0 else 0.73) + rng.uniform(-3, 3) * _FINE
        x, y = (along, across) if axis == "above" else (across, along)
        _draw_shape(draw, group.shape, x, y, 8 * _FINE * rng.uniform(0.85, 1.15), rng.uniform(-0.15, 0.15), fill)


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, angle: float, fill: RGB
) -> None:
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(box, fill=fill)
    elif shape == "ring":
        draw.ellipse(box, outline=fill, width=round(radius * 0.4))
    else:
        corners = [
            (x + radius * distance * sin(turn + angle), y - radius * distance * cos(turn + angle))
            for turn, distance in _CORNERS[shape]
        ]
        draw.polygon(corners, fill=fill)


def _cross(half_width: float, reach: float) -> list[tuple[float, float]]:
    """Corners of a plus sign: of each arm its two ends, and the inner corner to the next arm."""
    outer, lean, inner = hypot(half_width, reach), atan2(half_width, reach), half_width * 2**0.5
    return [
        corner
        for arm in (0, pi / 2, pi, 3 * pi / 2)
        for corner in ((arm - lean, outer), (arm + lean, outer), (arm + pi / 4, inner))
    ]


# Corners of polygons as (angle clockwise from the top, distance in radii).
_CORNERS = {
    "triangle": [(0.0, 1.25), (2 * pi / 3, 1.25), (4 * pi / 3, 1.25)],
    "cross": _cross(0.36, 1.1),
}
