"""The facts that users choose by, and that every detector finds a planted mistake at the end that it names."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ecif.curvature import Diagonal
from ecif.demo.evaluation import auroc
from ecif.detectors import COSTS, NAMES, OPTIONAL, facts, load, trak
from ecif.detectors.views import BatchView, Checkpoint, RelativeView, ShardView
from ecif.errors import UsageError
from ecif.relative import Columns, gradient_squares, self_influence
from ecif.settings import MethodSettings
from ecif.stages.score import schema
from ecif.stages.wanted import Wanted
from tests.detectors.heads import SCALE, Heads

N = 64
# Finds no mistakes by itself: what a pair does to its competitors hardly tells whether it is right.
BLIND = {"negative_influence"}
# Those that compare the pair with validation pairs ask what the model has still to learn, and one that has learnt all
# has no answer; the others ask what it knows.
COMPARING = {"direction:influence", "direction:gradient", "direction:ekfac", "direction:trak", "stepped"}


def test_every_detector_has_a_sign_a_source_and_an_implementation() -> None:
    for name in (*NAMES, *OPTIONAL):
        found = facts(name)
        assert found.name == found.column == name
        assert found.title
        assert found.reference.startswith("arXiv ")
        assert found.needs <= set(COSTS)
        assert callable(load(name))
    assert len({*NAMES, *OPTIONAL}) == len(NAMES) + len(OPTIONAL)


def test_those_that_are_always_there_are_columns_of_the_score_files() -> None:
    assert set(NAMES) <= set(schema(Wanted.of(MethodSettings())))


@pytest.mark.parametrize("look_up", [facts, load])
def test_an_unknown_name_is_refused_with_the_known_ones(look_up) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=r"clip_score.*lemon"):
        look_up("clipscore")


def _gradients(problem: Heads) -> Tensor:
    def rows(theta: Tensor) -> Tensor:
        s = problem.logits(theta)
        return torch.logsumexp(s, 1) + torch.logsumexp(s, 0) - 2 * s.diagonal()

    return torch.func.jacrev(rows)(problem.theta)


@cache
def _views(turn: float, seed: int) -> tuple[Heads, BatchView, ShardView]:
    """Pairs, and all that can be asked for at once, with the identity for the curvature."""
    problem = Heads(N, wrong=8, turn=turn, seed=seed)
    g = problem.validation_gradient()
    features = torch.stack(
        [torch.func.grad(lambda theta, n=n: problem.pointwise(theta, n))(problem.theta) for n in range(N)]
    )
    gradients = _gradients(problem)
    view = replace(
        problem.view(influence=g, gradient=g, ekfac=g, trak=trak.direction(features, g, 1.0)),
        stepped_BB=problem.logits(problem.theta - 0.01 * g),
        gradients={"positive": gradients, "removal": gradients},
        curvature=Diagonal(torch.zeros(gradients.shape[1], dtype=torch.float64), 1.0, 0.0),
        validation_VK=problem.validation_gradients(),
        checkpoints=tuple(Checkpoint(problem.logits(problem.theta - step * g), SCALE) for step in (0, 1)),
    )
    u, v = problem.embed(problem.theta, problem.h_image, problem.h_text)
    return problem, view, ShardView(u, v, gradients={"positive": gradients})


def _lengths(batch: BatchView) -> RelativeView:
    """Of the same gradients, exactly; the negative role is left out."""
    assert batch.curvature is not None
    rows = batch.gradients["positive"]
    none = torch.zeros_like(rows)
    influence = load("positive_influence")(batch)
    return RelativeView(
        influence,
        torch.zeros_like(influence),
        1.0,
        Columns.exact(rows, none, batch.curvature),
        self_influence(rows, none, batch.curvature),
        gradient_squares(rows),
    )


@pytest.mark.parametrize("name", [name for name in (*NAMES, *OPTIONAL) if name not in BLIND])
def test_pairs_with_wrong_captions_are_at_the_bad_end(name: str) -> None:
    comparing = bool(facts(name).needs & COMPARING)
    areas = []
    for seed in range(3):
        problem, batch, shard = _views(1.5 if comparing else 0.0, seed)
        scores = load(name)({"batch": batch, "shard": shard, "relative": _lengths(batch)}[facts(name).level])
        assert scores.shape == (N,)
        badness = scores if facts(name).higher_is_worse else -scores
        areas.append(auroc(problem.wrong.numpy(), badness.numpy()) or 0.0)
    assert np.mean(areas) > (0.8 if comparing else 0.95)


def test_the_page_of_the_columns_has_every_sign_and_source() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "detectors.md").read_text("utf-8")
    rows = {cells[1].strip(" `"): cells for line in page.splitlines() if len(cells := line.split("|")) == 6}
    for name in (*NAMES, *OPTIONAL):
        _, _, _, worse, source, _ = rows[name]
        assert worse.strip() == ("high" if facts(name).higher_is_worse else "low")
        assert facts(name).reference.removeprefix("arXiv ") in source or source.strip() == "the same"
