"""Problems made from models and pictures, and outcomes that are computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.method import problems, retrain
from bench.method.cases import Case, Spec
from bench.method.corpora import Draw, Material, Pictures, draw
from bench.method.errors import compare, role_gradient
from bench.method.store import Store
from ecif.towers.loading import load
from tests.tiny import write_model

WORDS = ("a red circle", "two blue dogs", "the green sea", "one tree", "a cat", "three birds")


def pictures(n: int, seed: int) -> Pictures:
    generator = torch.Generator().manual_seed(seed)
    captions = tuple(WORDS[k] for k in torch.randint(len(WORDS), (n,), generator=generator).tolist())
    return Pictures(torch.randn(n, 3, 16, 16, generator=generator), captions, torch.arange(n) % 5 == 0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Material:
    config, weights = write_model(tmp_path_factory.mktemp("model"))
    return Material("tiny", pictures(40, 0), pictures(60, 1), config, weights)


@pytest.fixture(scope="module")
def drawn(source: Material) -> Draw:
    return draw(source, 3, train=16, validation=16, test=24)


def test_a_draw_is_disjoint_and_its_own_seed(source: Material) -> None:
    first, again, other = (draw(source, seed, 16, 16, 24) for seed in (3, 3, 4))
    assert torch.equal(first.train.images, again.train.images)
    assert not torch.equal(first.train.images, other.train.images)
    images = torch.cat([first.validation.images, first.test.images]).flatten(1)
    assert len(torch.unique(images, dim=0)) == 40
    with pytest.raises(ValueError, match="tiny has not as many pairs"):
        draw(source, 0, 16, 50, 24)


def test_heads_start_at_the_model_and_reach_a_minimum(source: Material, drawn: Draw) -> None:
    problem = problems.heads(source, drawn, seed=0, batch=8, delta=50.0, blur=0.0)
    model = load(str(source.config), str(source.weights), torch.float64)
    u_ND, v_ND, scale = problem.embed(problem.theta_0, problem.train)
    expected = model.model.encode_image(drawn.train.images.double(), normalize=True)  # type: ignore[operator]
    torch.testing.assert_close(u_ND, expected)
    tokens = model.tokenize(list(drawn.train.captions))
    torch.testing.assert_close(v_ND, model.model.encode_text(tokens, normalize=True))  # type: ignore[operator]
    assert float(scale) == pytest.approx(float(model.model.logit_scale.exp()))  # type: ignore[operator]
    minimum = retrain.minimise(problem.loss, problem.theta_0, 1e-6)
    assert minimum.gradient_norm <= 1e-6
    assert float(problem.loss(minimum.theta)) < float(problem.loss(problem.theta_0))


def test_accuracy_counts_images_whose_own_caption_is_nearest(source: Material, drawn: Draw) -> None:
    problem = problems.heads(source, drawn, seed=0, batch=8)
    u_ND, v_ND, _ = problem.embed(problem.theta_0, problem.test or problem.train)
    by_caption = dict(zip(drawn.test.captions, v_ND, strict=True))
    right = 0
    for u_D, own in zip(u_ND, drawn.test.captions, strict=True):
        right += max(by_caption, key=lambda caption: float(u_D @ by_caption[caption])) == own
    assert problem.accuracy(problem.theta_0) == pytest.approx(right / len(drawn.test.captions))


@pytest.mark.parametrize("trainable", ["last:1", "all"])
def test_deep_problem_from_scratch_learns_and_forgets_the_removed(
    source: Material, drawn: Draw, trainable: str
) -> None:
    problem = problems.deep(source, drawn, 0, trainable, batch=8, pretrained=False)
    kept = torch.ones(problem.n, dtype=torch.bool)
    whole, same = (retrain.from_scratch(problem, keep, epochs=3).theta for keep in (None, kept))
    torch.testing.assert_close(whole, same, rtol=0, atol=1e-12)
    kept[5] = False
    assert not torch.allclose(retrain.from_scratch(problem, kept, epochs=3).theta, whole)
    pull = problem.delta / 2 * (whole - problem.theta_0).square().sum()
    assert float(problem.loss(whole) - pull) < float(problem.loss(problem.theta_0))


def test_an_outcome_is_computed_once(tmp_path: Path) -> None:
    spec = Spec("convex", n=24, batch=8, delta=10.0, validation=64, singles=2)
    first = Case(spec, None, tmp_path, Store(tmp_path / "s.jsonl"))
    changes = first.changes([*first.left_out(3), *first.subsets(1)])
    assert changes.shape == (3, 4)
    size = (tmp_path / "s.jsonl").stat().st_size
    again = Case(spec, None, tmp_path, Store(tmp_path / "s.jsonl"))
    assert torch.equal(again.minimum.theta, first.minimum.theta)
    np.testing.assert_array_equal(again.changes([*again.left_out(3), *again.subsets(1)]), changes)
    assert (tmp_path / "s.jsonl").stat().st_size == size
    assert again.changes([]).shape == (3, 0)


def test_the_gradient_of_a_sets_roles_is_that_of_what_the_loss_falls_by(tmp_path: Path) -> None:
    case = Case(Spec("convex", n=24, batch=8, delta=10.0), None, tmp_path, Store(tmp_path / "s.jsonl"))
    rows = [0, 3, 9, 23]
    keep = torch.ones(24, dtype=torch.bool)
    keep[rows] = False
    value = case.minimum.theta.clone().requires_grad_()
    (expected,) = torch.autograd.grad(case.problem.loss(value) - case.problem.loss(value, keep), value)
    torch.testing.assert_close(role_gradient(case, rows), expected, rtol=1e-9, atol=1e-9)


def test_a_newton_step_of_what_is_left_is_nearest_to_retraining(tmp_path: Path) -> None:
    case = Case(Spec("convex", n=48, batch=16, delta=10.0), None, tmp_path, Store(tmp_path / "s.jsonl"))
    for one in compare(case, [[1], [2, 17, 40]]):
        assert one["parameters retained"] < one["parameters ggn"] < 0.5
        assert one["parameters hessian"] == pytest.approx(one["parameters ggn"], rel=1e-3)
        assert one["cosine retained"] > 0.99
