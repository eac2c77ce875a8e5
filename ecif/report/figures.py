"""The histogram of the deciding score as inline SVG."""

from __future__ import annotations

import math

from markupsafe import Markup

from ecif.report import drawing
from ecif.report.distribution import Histogram
from ecif.report.drawing import CHARACTER, LEFT, LINE, NARROW, TOP, WIDE, Frame, line, text
from ecif.report.numerals import MINUS, TIMES, power_of_ten

__all__ = ["NARROW", "WIDE", "Frame", "alone", "histogram"]

# The light colours of the page.
_STYLE = (
    "text{font:12.5px system-ui,sans-serif;fill:#565b64}.name{fill:#1d2025;font-weight:600}"
    ".cutname{fill:#b8452f;font-weight:600}.grid{stroke:#d9dce1}.axis{stroke:#565b64}"
    ".zero{stroke:#565b64;stroke-dasharray:2 4}.cut{stroke:#b8452f;stroke-width:1.5;stroke-dasharray:6 4}"
    "path.kept{fill:#3f6f9f}path.dropped{fill:#b8452f}"
)


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
    right, bottom = frame.right, frame.bottom
    tallest = max(1, *(kept + dropped for kept, dropped in zip(bars.kept, bars.dropped, strict=True)))

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (right - LEFT)

    def y(count: float) -> float:
        return bottom - count / tallest * (bottom - TOP)

    parts = drawing.counts(frame, tallest)
    floor = [0] * len(bars.dropped)
    parts.append(f'<path class="dropped" d="{drawing.bars(bars.edges, floor, bars.dropped, x, y)}"/>')
    parts.append(f'<path class="kept" d="{drawing.bars(bars.edges, bars.dropped, bars.kept, x, y)}"/>')
    parts.append(line("axis", LEFT, bottom, right, bottom))
    exponent = _exponent(max(abs(low), abs(high)))
    ticks = drawing.ticks(low, high, frame.ticks)
    # As many digits as it takes to tell one tick from the next.
    digits = max(6, 2 + math.ceil(math.log10(max(abs(low), abs(high)) / (ticks[-1] - ticks[0] or high - low))))
    for tick in ticks:
        parts.append(line("axis", x(tick), bottom, x(tick), bottom + 5))
        parts.append(text(x(tick), bottom + LINE, f"{tick / 10.0**exponent:.{digits}g}".replace("-", MINUS), "middle"))
    unit = f" {TIMES} {power_of_ten(exponent)}" if exponent else ""
    parts.append(text((LEFT + right) / 2, bottom + frame.lines * LINE, axis + unit, "middle", "name"))
    parts.append(text(LEFT, bottom + 2 * LINE, f"← {ends[0]}", "start"))
    parts.append(text(right, bottom + 2 * LINE, f"{ends[1]} →", "end"))
    if low < 0 < high:
        parts.append(line("zero", x(0), TOP, x(0), bottom))
    if cut is not None and low <= cut <= high:
        parts.append(line("cut", x(cut), TOP - 28, x(cut), bottom))
        fits = x(cut) + 6 + CHARACTER * len(label) < right
        parts.append(text(x(cut) + (6 if fits else -6), TOP - 18, label, "start" if fits else "end", "cutname"))
    return drawing.drawn(frame, title, parts)


def alone(figure: Markup, frame: Frame) -> str:
    """The drawing as a file of its own: with its colours, on white, for places that have no style sheet of ours."""
    size = f'xmlns="http://www.w3.org/2000/svg" width="{frame.width}" height="{frame.height}" '
    ground = f'<style>{_STYLE}</style><rect width="{frame.width}" height="{frame.height}" fill="#fff"/>'
    return str(figure).replace("<svg ", f"<svg {size}", 1).replace("</title>", f"</title>{ground}", 1)


def _exponent(largest: float) -> int:
    """The power of ten to take out of the labels of an axis; 0 where plain numbers are short enough."""
    power = math.floor(math.log10(largest))
    return 0 if -2 <= power <= 4 else power
