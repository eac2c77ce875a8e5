"""The histogram as inline SVG, drawn by hand: a page without scripts needs no plotting library.

Colours come from the page's style sheet by class, so that one drawing serves light and dark. Text must not shrink with
the screen, so the page holds two drawings, a wide and a narrow one, and shows the one that fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from ecif.report.distribution import Histogram
from ecif.report.numerals import MINUS, TIMES, power_of_ten

_TOP, _LEFT, _RIGHT = 40, 48, 12  # margins in pixels around the bars
_LINE = 19  # pixels between lines of text
_CHARACTER = 6.6  # about the width of one, in pixels; decides on which side of the cut its label fits
_GAP = 0.5  # pixels left free between bars
# The light colours of the page.
_STYLE = (
    "text{font:12.5px system-ui,sans-serif;fill:#565b64}.name{fill:#1d2025;font-weight:600}"
    ".cutname{fill:#b8452f;font-weight:600}.grid{stroke:#d9dce1}.axis{stroke:#565b64}"
    ".zero{stroke:#565b64;stroke-dasharray:2 4}.cut{stroke:#b8452f;stroke-width:1.5;stroke-dasharray:6 4}"
    "path.kept{fill:#3f6f9f}path.dropped{fill:#b8452f}"
)


@dataclass(frozen=True, slots=True)
class Frame:
    """Size of a drawing in pixels, how many ticks its axis has room for, and lines of text below the axis."""

    width: int
    height: int
    ticks: int
    lines: int


WIDE = Frame(1040, 320, 9, 2)
NARROW = Frame(340, 300, 4, 3)


def histogram(
    bars: Histogram, frame: Frame, *, axis: str, cut: float | None, label: str, ends: tuple[str, str], title: str
) -> Markup:
    """Draw the distribution of a score.

    Args:
        axis: the name of the score. ends: what its left and its right end mean.
        cut: where pairs are dropped; None draws no line. label: what stands at that line.
        title: the figure in one sentence, for those who cannot see it.
    """
    low, high = bars.edges[0], bars.edges[-1]
    right, bottom = frame.width - _RIGHT, frame.height - frame.lines * _LINE - 10
    tallest = max(1, *(kept + dropped for kept, dropped in zip(bars.kept, bars.dropped, strict=True)))

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (right - _LEFT)

    def y(count: float) -> float:
        return bottom - count / tallest * (bottom - _TOP)

    parts = []
    for tick in (tick for tick in _ticks(0, tallest, 4) if tick == int(tick)):
        parts.append(_line("grid", _LEFT, y(tick), right, y(tick)))
        parts.append(_text(_LEFT - 8, y(tick) + 4, _short(int(tick)), "end"))
    floor = [0] * len(bars.dropped)
    parts.append(f'<path class="dropped" d="{_bars(bars.edges, floor, bars.dropped, x, y)}"/>')
    parts.append(f'<path class="kept" d="{_bars(bars.edges, bars.dropped, bars.kept, x, y)}"/>')
    parts.append(_line("axis", _LEFT, bottom, right, bottom))
    exponent = _exponent(max(abs(low), abs(high)))
    ticks = _ticks(low, high, frame.ticks)
    # As many digits as it takes to tell one tick from the next.
    digits = max(6, 2 + math.ceil(math.log10(max(abs(low), abs(high)) / (ticks[-1] - ticks[0] or high - low))))
    for tick in ticks:
        parts.append(_line("axis", x(tick), bottom, x(tick), bottom + 5))
        parts.append(
            _text(x(tick), bottom + _LINE, f"{tick / 10.0**exponent:.{digits}g}".replace("-", MINUS), "middle")
        )
    unit = f" {TIMES} {power_of_ten(exponent)}" if exponent else ""
    parts.append(_text((_LEFT + right) / 2, bottom + frame.lines * _LINE, axis + unit, "middle", "name"))
    parts.append(_text(_LEFT, bottom + 2 * _LINE, f"← {ends[0]}", "start"))
    parts.append(_text(right, bottom + 2 * _LINE, f"{ends[1]} →", "end"))
    if low < 0 < high:
        parts.append(_line("zero", x(0), _TOP, x(0), bottom))
    if cut is not None and low <= cut <= high:
        parts.append(_line("cut", x(cut), _TOP - 28, x(cut), bottom))
        fits = x(cut) + 6 + _CHARACTER * len(label) < right
        parts.append(_text(x(cut) + (6 if fits else -6), _TOP - 18, label, "start" if fits else "end", "cutname"))
    head = f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img"><title>{escape(title)}</title>'
    return Markup(head + "".join(parts) + "</svg>")  # every text in `parts` is escaped by _text


def alone(drawing: Markup, frame: Frame) -> str:
    """The drawing as a file of its own: with its colours, on white, for places that have no style sheet of ours."""
    size = f'xmlns="http://www.w3.org/2000/svg" width="{frame.width}" height="{frame.height}" '
    ground = f'<style>{_STYLE}</style><rect width="{frame.width}" height="{frame.height}" fill="#fff"/>'
    return str(drawing).replace("<svg ", f"<svg {size}", 1).replace("</title>", f"</title>{ground}", 1)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _bars(
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


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between two values: steps of 1, 2 or 5 times a power of ten, at most `about` of them or so."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def _exponent(largest: float) -> int:
    """The power of ten to take out of the labels of an axis; 0 where plain numbers are short enough."""
    power = math.floor(math.log10(largest))
    return 0 if -2 <= power <= 4 else power


def _short(count: int) -> str:
    """A count that fits beside an axis: `950`, `1.2k`, `30M`."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:g}{unit}"
    return str(count)
