"""What drawings are made of: lines, words and bars as SVG, by hand, because a page like this needs no plotting library.

Colours come from the page's style sheet by class, so that one drawing serves light and dark. Text must not shrink with
the screen, so the page holds every drawing twice, wide and narrow, and shows the one that fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

TOP, LEFT, RIGHT = 40, 48, 12  # margins in pixels around the bars
LINE = 19  # pixels between lines of text
CHARACTER = 6.6  # about the width of one, in pixels; decides on which side of the cut its label fits
_GAP = 0.5  # pixels left free between bars


@dataclass(frozen=True, slots=True)
class Frame:
    """Size of a drawing in pixels, how many ticks its axis has room for, and lines of text below the axis."""

    width: int
    height: int
    ticks: int
    lines: int

    @property
    def right(self) -> int:
        """Where the axis ends."""
        return self.width - RIGHT

    @property
    def bottom(self) -> int:
        """Where the axis lies."""
        return self.height - self.lines * LINE - 10


WIDE = Frame(1040, 320, 9, 2)
NARROW = Frame(340, 300, 4, 3)


def drawn(frame: Frame, title: str, parts: Sequence[str]) -> Markup:
    """A drawing; every text in `parts` is escaped by `text`.

    Args:
        title: the figure in one sentence, for those who cannot see it.
    """
    head = f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img"><title>{escape(title)}</title>'
    return Markup(head + "".join(parts) + "</svg>")


def counts(frame: Frame, tallest: float) -> list[str]:
    """Horizontal lines for counts from 0 to `tallest`, which lies at the top."""
    parts = []
    for tick in (tick for tick in ticks(0, tallest, 4) if tick == int(tick)):
        y = frame.bottom - tick / tallest * (frame.bottom - TOP)
        parts += [line("grid", LEFT, y, frame.right, y), text(LEFT - 8, y + 4, short(int(tick)), "end")]
    return parts


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight line of a class of the style sheet."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    """A line of text; `anchor` is the end that stands at x."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def bars(
    edges: Sequence[float],
    floor: Sequence[int],
    counts: Sequence[int],
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> str:
    """One path for all bars of a kind, each on top of `floor`."""
    path = []
    for i, (base, count) in enumerate(zip(floor, counts, strict=True)):
        if count:
            left, right = x(edges[i]) + _GAP / 2, x(edges[i + 1]) - _GAP / 2
            path.append(f"M{left:.1f} {y(base):.1f}V{y(base + count):.1f}H{right:.1f}V{y(base):.1f}Z")
    return "".join(path)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between two values: steps of 1, 2 or 5 times a power of ten, at most `about` of them or so."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def short(count: int) -> str:
    """A count that fits beside an axis: `950`, `1.2k`, `30M`."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:g}{unit}"
    return str(count)
