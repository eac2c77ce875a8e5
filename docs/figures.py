"""Draw the figures of the pages with `python -m docs.figures`: seconds, and only the code of this repository.

    two-roles.svg           what a pair takes part in: its own row and column, and those of the others
    exact-removal.svg       the exact negative role against the first-order one
    leave-one-out.svg       predicted against actual change of the validation loss, on a problem small enough to retrain
    fit-size.svg            how the error of a fit falls with its sample: the table of docs/speed.md, drawn

The third is a computation, not a drawing: 80 pairs, a bilinear similarity, float64; every pair is left out once, and
the similarity is trained again to convergence. Coordinates are rounded to a tenth, so that the files are the same on
machines whose last bits differ. A test draws them again and compares.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ecif import contrastive

DOCS = Path(__file__).resolve().parent

_STYLE = """
    .ink { fill: #1d2733 } .quiet { fill: #5b6878 } .line { stroke: #8794a3; fill: none }
    .own { fill: #2b6cb0 } .other { fill: #dd8a2e } .cell { fill: #dfe5ec } .a { stroke: #2b6cb0; fill: none }
    .b { stroke: #dd8a2e; fill: none; stroke-dasharray: 6 4 } 
    text { font-size: 13px } .small { font-size: 11.5px } .mid { text-anchor: middle }
    @media (prefers-color-scheme: dark) {
      .ink { fill: #e4eaf1 } .quiet { fill: #9fadbd } .cell { fill: #33404f } .own { fill: #63a4e8 }
      .other { fill: #f0a95a } .a { stroke: #63a4e8 } .b { stroke: #f0a95a }
    }
"""
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
PAIRS = 80
WRONG = 5  # every fifth pair has the caption of another one


def two_roles(pairs: int = 8, at: int = 3) -> str:
    """The matrix of similarities of a batch: where pair `at` stands in the loss."""
    parts, side = [], 30
    for row in range(pairs):
        for column in range(pairs):
            mark = "own" if row == column == at else "other" if at in (row, column) else "cell"
            x, y = 130 + side * column, 50 + side * row
            parts.append(f'<rect class="{mark}" x="{x}" y="{y}" width="{side - 3}" height="{side - 3}" rx="3"/>')
    middle = 50 + side * at + 18
    parts += [
        _text(130 + side * pairs / 2, 22, "captions", "quiet mid"),
        _text(60, 50 + side * pairs / 2, "images", "quiet mid"),
        _text(120, middle, "n", "ink", "end"),
        _text(130 + side * at + 13, 44, "n", "ink mid"),
        _text(400, 80, "S: each image against each caption", "ink"),
        _text(400, 120, "blue: image n and its own caption.", "ink"),
        _text(400, 140, "Positive role: they should find each other", "quiet"),
        _text(400, 158, "in their row and in their column.", "quiet"),
        _text(400, 198, "orange: n against the others.", "ink"),
        _text(400, 216, "Negative role: in the rows and columns of", "quiet"),
        _text(400, 234, "the others, n is one more wrong answer.", "quiet"),
    ]
    title = "The two roles of a pair in a batch"
    return _svg(680, 310, title, "A square of similarities; row and column of pair n are marked.", parts)


def exact_removal() -> str:
    """Both forms of the negative role for one competitor with softmax weight p."""
    grid = [step / 100 for step in range(0, 97)]
    weights = torch.tensor(grid, dtype=torch.float64)
    exact = (-torch.log1p(-weights)).tolist()

    def place(x: float, y: float) -> tuple[float, float]:
        return 70 + 480 * x, 270 - 70 * y

    parts = [
        *_axes(70, 270, 550, 30, "softmax weight p of the pair in another's row", "its share in that row's loss"),
        _curve("a", (place(x, y) for x, y in zip(grid, exact, strict=True))),
        _curve("b", (place(x, x) for x in grid)),
        _text(400, 150, "exact: -log(1 - p)", "own", "end"),
        _text(470, 262, "first order: p", "other", "end"),
        *(_text(place(x, 0)[0], 288, f"{x:g}", "quiet small mid") for x in (0, 0.25, 0.5, 0.75, 1)),
        *(_text(60, place(0, y)[1] + 4, f"{y:g}", "quiet small", "end") for y in (0, 1, 2, 3)),
    ]
    described = "Both curves begin alike; the exact one rises without bound as p nears 1, the first-order one to 1."
    return _svg(600, 320, "The exact and the first-order negative role", described, parts)


def leave_one_out() -> str:
    """Predicted and actual change of the validation loss when one pair goes."""
    predicted, actual = changes()
    most = max(max(map(abs, predicted)), max(map(abs, actual))) * 1.1

    def place(x: float, y: float) -> tuple[float, float]:
        return 310 + 230 * x / most, 160 - 120 * y / most

    dots = [place(x, y) for x, y in zip(predicted, actual, strict=True)]
    parts = [
        *_axes(80, 280, 540, 40, "predicted change of the validation loss, by influence", "change after retraining"),
        _curve("b", (place(-most, -most), place(most, most))),
        *(
            f'<circle class="{"own" if n % WRONG else "other"}" cx="{_number(x)}" cy="{_number(y)}" r="4"/>'
            for n, (x, y) in enumerate(dots)
        ),
        _text(100, 80, "orange: wrong captions", "other"),
        _text(540, 265, "dashed: equal", "other", "end"),
        _text(100, 60, f"{len(dots)} pairs, each left out once", "quiet"),
    ]
    return _svg(
        600,
        320,
        "Influence against retraining",
        "Points near the diagonal; of those at the lower left, most have wrong captions.",
        parts,
    )


def fit_size() -> str:
    """Three errors of a fit on a sample, both axes logarithmic; with the range over the seeds for the direction."""
    found = fit_sizes()
    low, high = 0.03, 2.0

    def place(pairs: float, error: float) -> tuple[float, float]:
        across, up = math.log(pairs / 80) / math.log(100), math.log(max(error, low) / low) / math.log(high / low)
        return 80 + 460 * across, 280 - 250 * up

    parts = _axes(80, 280, 540, 20, "pairs that the curvature is fitted on", "error")
    last = found[-1]
    for which, (mark, colour, title) in enumerate(
        [("a", "own", "direction"), ("b", "other", "worst 10 %, missed"), ("line", "quiet", "1 - Spearman")]
    ):
        parts.append(_curve(mark, [place(one.pairs, one.errors[which]) for one in found]))
        parts.append(_text(place(last.pairs, 1)[0] + 6, place(1, last.errors[which])[1] + 4, title, f"{colour} small"))
    for one in found:
        parts.append(_curve("a", [place(one.pairs, end) for end in one.spread]))
        parts.append(_text(place(one.pairs, 1)[0], 298, f"{one.pairs:,}", "quiet small mid"))
    parts += [_text(70, place(1, y)[1] + 4, f"{y:g}", "quiet small", "end") for y in (0.03, 0.1, 0.3, 1)]
    described = "Three lines that fall as the sample grows: errors of the direction, of the worst tenth, of the ranks."
    return _svg(680, 330, "The error of a fit as a function of its sample", described, parts)


@dataclass(frozen=True, slots=True)
class FitSize:
    """A row of the table of docs/speed.md: error of the direction, share missed, 1 - Spearman; range of the first."""

    pairs: int
    errors: tuple[float, float, float]
    spread: tuple[float, float]


def fit_sizes() -> list[FitSize]:
    """The rows for `heads` with the default sketches and cuts, as `python -m bench.fit_size` printed them."""
    rows = re.findall(r"^\| `heads` \| 64 \| 8 \| ([\d,]+) (.*)$", (DOCS / "speed.md").read_text("utf-8"), re.MULTILINE)
    found = {}
    for pairs, rest in rows:
        _, _, _, error, least, most, rank, _, _, overlap, *_ = map(float, _NUMBER.findall(rest))
        # The row of all pairs stands in the table of cuts, too.
        size = int(pairs.replace(",", ""))
        found[size] = FitSize(size, (error, 1 - overlap, 1 - rank), (least, most))
    return [found[size] for size in sorted(found)]


@functools.cache
def changes() -> tuple[list[float], list[float]]:
    """For each of `PAIRS` pairs: the predicted and the actual change of the validation loss without it.

    The similarity of image x and caption y is x^T M y with a 5 x 5 matrix M, so that the loss of docs/method.md is
    convex: its optimum is found by Newton's method with the whole Hessian, before and after a pair goes. Every fifth
    caption is one of another pair.
    """
    random = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    meaning = draw(2 * PAIRS, 5)
    images, captions = meaning + 0.5 * draw(2 * PAIRS, 5), meaning + 0.5 * draw(2 * PAIRS, 5)
    wrong = torch.arange(0, PAIRS, WRONG)
    captions[wrong] = captions[wrong.roll(1)]
    start = torch.eye(5, dtype=torch.float64).reshape(-1)

    def similarities(theta: Tensor, rows: Tensor) -> Tensor:
        return contrastive.logits(images[rows] @ theta.reshape(5, 5), captions[rows], 1.0)

    def loss(theta: Tensor, rows: Tensor) -> Tensor:
        return contrastive.batch_loss(similarities(theta, rows)) + 10 * ((theta - start) ** 2).sum()

    validation = torch.arange(PAIRS, 2 * PAIRS)

    def trusted(theta: Tensor) -> Tensor:
        return contrastive.batch_loss(similarities(theta, validation)) / (2 * PAIRS)

    everyone = torch.arange(PAIRS)
    trained = _minimise(lambda theta: loss(theta, everyone), start)
    hessian = torch.func.hessian(lambda theta: loss(theta, everyone))(trained)
    direction = torch.linalg.solve(hessian, torch.func.grad(trusted)(trained))

    def roles(theta: Tensor) -> Tensor:
        s = similarities(theta, everyone)
        return contrastive.positive(s) + contrastive.negative_exact(s)

    along: Tensor = torch.func.jvp(roles, (trained,), (direction,))[1]
    before = trusted(trained)
    actual = []
    for n in range(PAIRS):
        rest = everyone[everyone != n]
        again = _minimise(functools.partial(loss, rows=rest), trained)
        actual.append(float(trusted(again) - before))
    return along.tolist(), actual


def _minimise(loss: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """Newton's method with steps that are halved until the loss falls; to 1e-7 in the gradient."""
    gradient, hessian = torch.func.grad(loss), torch.func.hessian(loss)
    for _ in range(100):
        slope = gradient(theta)
        if float(slope.norm()) < 1e-7:
            return theta
        step = torch.linalg.solve(hessian(theta), slope)
        length = 1.0
        while loss(theta - length * step) > loss(theta) and length > 1e-6:
            length /= 2
        theta = theta - length * step
    return theta


def _axes(left: float, bottom: float, right: float, top: float, x: str, y: str) -> list[str]:
    return [
        _curve("line", [(left, top), (left, bottom), (right, bottom)]),
        _text((left + right) / 2, bottom + 36, x, "ink mid"),
        f'<text class="ink mid" transform="translate(24 {_number((top + bottom) / 2)}) rotate(-90)">{y}</text>',
    ]


def _curve(mark: str, points: Iterable[tuple[float, float]]) -> str:
    path = " L".join(f"{_number(x)} {_number(y)}" for x, y in points)
    return f'<path class="{mark}" stroke-width="2" d="M{path}"/>'


def _text(x: float, y: float, text: str, mark: str, anchor: str = "") -> str:
    end = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text class="{mark}" x="{_number(x)}" y="{_number(y)}"{end}>{text}</text>'


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _svg(width: int, height: int, title: str, description: str, parts: Iterable[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
    head += 'aria-labelledby="title desc" font-family="system-ui, sans-serif">'
    named = f'  <title id="title">{title}</title>\n  <desc id="desc">{description}</desc>'
    return "\n".join([head, named, f"  <style>{_STYLE}  </style>", *(f"  {part}" for part in parts), "</svg>", ""])


FIGURES: dict[str, Callable[[], str]] = {
    "two-roles.svg": two_roles,
    "exact-removal.svg": exact_removal,
    "leave-one-out.svg": leave_one_out,
    "fit-size.svg": fit_size,
}


def same(stored: str, drawn: str) -> bool:
    """Whether two drawings differ by no more than the last digit of coordinates."""
    texts = [_NUMBER.sub("#", text) for text in (stored, drawn)]
    if texts[0] != texts[1]:
        return False
    pairs = zip(_NUMBER.findall(stored), _NUMBER.findall(drawn), strict=True)
    return all(abs(float(a) - float(b)) <= 0.2 for a, b in pairs)


def main() -> None:
    """Write the figures beside the pages; one that is there already stays as it is."""
    for name, draw in FIGURES.items():
        file, drawn = DOCS / name, draw()
        if not (file.exists() and same(file.read_text("utf-8"), drawn)):
            file.write_text(drawn, "utf-8")


if __name__ == "__main__":
    main()
