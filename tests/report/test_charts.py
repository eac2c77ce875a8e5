"""Curves go through what the calibration says, bars count shards, and every drawing says itself in a sentence."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ecif import detectors
from ecif.calibration.curve import Curve
from ecif.calibration.gather import Sample
from ecif.calibration.measure import Estimate
from ecif.calibration.state import Calibration, Choice, of_sample
from ecif.report.charts import MOST, Figure, by_kind, by_score, charts, curves, precision_recall, rates, rates_title
from ecif.report.drawing import LEFT, NARROW, TOP, WIDE, Frame
from ecif.report.numbers import Numbers
from ecif.stages.outcome import BINS, Outcome

KINDS = ("drop", "swap")


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    random = np.random.default_rng(0)
    kind = np.arange(120) % 2
    names = ("clip_score", "neg_clip_loss", "influence", "negative_influence", "lemon", "aum", "deep_knn")

    def columns(wrong: np.ndarray) -> dict[str, np.ndarray]:
        signs = {name: 1 if detectors.facts(name).higher_is_worse else -1 for name in names}
        return {name: signs[name] * (wrong / (n + 1) + random.normal(size=len(wrong))) for n, name in enumerate(names)}

    real = columns(np.where(random.random(2_000) < 0.1, 3.0, 0.0))
    canary = columns(np.where(kind == 1, 3.0, 1.5))
    folds = (np.arange(120) // 2 % 5, np.arange(2_000) % 5)
    return of_sample(Sample(canary, real, KINDS, kind, folds, 5), "k", "s", "c", Choice())


def outcome(counts: list[int], pairs: int = 1000, gone: int = 100) -> Outcome:
    return Outcome(
        "d", sum(counts), pairs, pairs - gone, gone, 0, {}, 1, 1, counts, [], "", 0, [], [], 0, 0
    )  # fmt: skip


def numbers(calibration: Calibration | None, shards: list[int] | None, column: str = "clip_score") -> Numbers:
    found = Numbers(detectors.facts(column), 3, calibration=calibration)
    found.statuses, found.cut = Counter({"ok": 2_000}), 100
    found.outcome = None if shards is None else outcome(shards)
    return found


def places(drawing: str, kind: str) -> list[tuple[float, float]]:
    (path,) = re.findall(rf'<path class="{kind}" d="M([^"hZ]*)Z?"/>', drawing)
    return [(float(x), float(y)) for x, y in (point.split() for point in path.split("L"))]


def test_there_is_a_drawing_for_everything_that_is_known(calibration: Calibration) -> None:
    def names(found: list[Figure]) -> list[str]:
        return [one.name for one in found]

    assert names(charts(numbers(calibration, [0, 3] + [0] * 18))) == ["curves", "kinds", "scores", "rates"]
    assert names(charts(numbers(None, [0, 3] + [0] * 18))) == ["rates"]
    assert names(charts(numbers(None, [1] + [0] * 19))) == names(charts(numbers(None, None))) == []
    assert names(charts(numbers(calibration, None, "harm"))) == ["scores"]
    for one in charts(numbers(calibration, [0, 3] + [0] * 18)):
        for drawing in (one.wide, one.narrow):
            assert f"<title>{one.caption}</title>" in drawing
            assert "nan" not in drawing
            assert "inf" not in drawing.replace("influence", "")
            assert "style=" not in drawing


@pytest.mark.parametrize("frame", [WIDE, NARROW])
def test_curves_and_bands_go_through_the_estimates(calibration: Calibration, frame: Frame) -> None:
    series = precision_recall(calibration, "clip_score")
    drawing = curves(series, frame, title="t", at=0.05, band=True)
    curve: Curve = calibration.curves["clip_score"]
    kept = sorted((curve.dropped(cut).value, cut) for cut in curve.cuts if curve.dropped(cut).value >= 10 / 2_000)
    for number, of in enumerate((lambda cut: curve.precision(cut, calibration.share), curve.recall)):
        points = series[("precision", "recall")[number]]
        assert [share for share, _ in points] == [share for share, _ in kept]
        assert {found.value for _, found in points} == {of(cut).value for _, cut in kept}
        drawn = places(drawing, f"curve s{number}")
        band = places(drawing, f"band s{number}")
        assert len(drawn) == len(points) == len(band) / 2
        low = math.log10(min(0.1, points[0][0]))
        for (share, found), (x, y), top, under in zip(
            points, drawn, band[: len(points)], band[::-1][: len(points)], strict=True
        ):
            assert x == pytest.approx(LEFT + (1 - math.log10(share) / low) * (frame.right - LEFT), abs=0.06)
            for (where, height), value in (((x, y), found.value), (top, found.high), (under, found.low)):
                assert where == x
                assert height == pytest.approx(frame.bottom - value * (frame.bottom - TOP), abs=0.06)
    assert drawing.count('class="cut"') == 1
    assert "the cut, 5 %" in drawing
    assert 'class="cut"' not in curves(series, frame, title="t", at=None)
    assert 'class="cut"' not in curves(series, frame, title="t", at=1e-9)


def test_kinds_and_scores_have_a_curve_each(calibration: Calibration) -> None:
    curve = calibration.curves["clip_score"]
    series = by_kind(curve)
    assert tuple(series) == KINDS
    assert [found for _, found in series["swap"]][-1] == curve.recall(curve.cuts[-1], "swap")
    assert max(found.value for _, found in series["drop"]) == 1
    names = [*by_score(calibration, "aum")]
    assert names[0] == "aum"
    assert len(names) == MOST
    assert not {"negative_influence", "p_misaligned without influence"} & {*names}
    assert next(iter(by_score(calibration, "negative_influence"))) == "negative_influence"
    areas = [calibration.measures[name]["all"].auroc.value for name in names[1:]]
    assert areas == sorted(areas, reverse=True)


def test_a_sentence_says_where_the_curves_are(calibration: Calibration) -> None:
    found = {one.name: one.caption for one in charts(numbers(calibration, [0, 3] + [0] * 18))}
    match = re.fullmatch(
        r"Cuts through clip_score, by the share of pairs dropped\. At 5 % dropped: precision ([\d.]+) %, "
        r"recall ([\d.]+) %, as canaries say it",
        found["curves"],
    )
    assert match
    curve = calibration.curves["clip_score"]
    by_share = sorted((curve.dropped(cut).value, curve.recall(cut).value) for cut in curve.cuts)
    (x0, y0), (x1, y1) = next(pair for pair in pairwise(by_share) if pair[0][0] <= 0.05 < pair[1][0])
    assert float(match[2]) == pytest.approx(100 * (y0 + (y1 - y0) * (0.05 - x0) / (x1 - x0)), abs=0.06)
    assert found["rates"].startswith(
        "Share of its pairs that each of 3 shards loses: 3 lose 5 to 10 %, none more than 10 %"
    )


def test_hostile_names_are_text() -> None:
    points = [(0.01, Estimate(0.5, 0.4, 0.6)), (1.0, Estimate(1.0, 1.0, 1.0))]
    drawing = curves({"<script>": points, "empty": []}, WIDE, title="a & b", at=None)
    assert "&lt;script&gt;" in drawing
    assert "a &amp; b" in drawing
    assert drawing.count("<path") == 3  # one curve, two pieces of the legend


@pytest.mark.parametrize("frame", [WIDE, NARROW])
@pytest.mark.parametrize("counts", [[4] + [0] * 19, [0] * 19 + [7], [2, 5, 0, 1] + [0] * 16, [1] * 20, [0] * 20])
def test_bars_count_shards(frame: Frame, counts: list[int]) -> None:
    found = outcome(counts)
    drawing = rates(found, frame, rates_title(found))
    (path,) = re.findall(r'<path class="dropped" d="([^"]*)"/>', drawing)
    heights = [frame.bottom - float(top) for top in re.findall(r"V([\d.]+)H", path)]
    expected = [n / max(counts) * (frame.bottom - TOP) for n in counts if n]
    assert heights == pytest.approx(expected, abs=0.06)
    assert len(counts) == BINS
    assert ('class="zero"' in drawing) == (found.pairs > 0)
    assert 'class="zero"' not in rates(replace(found, pairs=0, kept=0), frame, "t")
