"""Both exact paths against autograd through the whole model, on open_clip's own towers; what they share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from ecif import contrastive, gradients, logra
from ecif.gradients import Role, forward_gradients, projected_gradients, reverse_gradients
from ecif.gradients.towers import embed
from tests.gradients.cases import ROLES, Case, autograd, case

Path = Callable[..., dict[Role, Tensor]]
PATHS: dict[str, Path] = {
    "forward": partial(forward_gradients, chunk=5),
    "by sample": partial(reverse_gradients, by="sample", chunk=2),
    "by coordinate": partial(reverse_gradients, by="coordinate", chunk=3),
    "all of the hardest": partial(reverse_gradients, hardest=4),
    "chosen": projected_gradients,
}
EXACT = ("forward", "by sample", "by coordinate")


def same(got: dict[Role, Tensor], expected: dict[Role, Tensor]) -> None:
    assert set(got) == set(expected)
    for role in expected:
        largest = expected[role].abs().max()
        assert float((got[role] - expected[role]).abs().max() / largest) < 1e-9, role


@pytest.mark.parametrize(
    ("kind", "trainable", "rank"),
    [("vit", "heads", 3), ("vit", "last:1", 2), ("vit", "all", 1), ("resnet", "all", 1), ("biased", "heads", 3)],
)
def test_every_path_equals_autograd(kind: str, trainable: str, rank: int) -> None:
    problem = case(kind, trainable, rank=rank)
    expected = autograd(problem)
    for name, path in PATHS.items():
        if trainable != "all" or name in EXACT:
            same(path(problem.towers, problem.states, problem.projection, ROLES), expected)


@pytest.mark.parametrize("trainable", ["heads", "last:1"])
def test_equal_captions_can_be_left_out_of_the_competition(trainable: str) -> None:
    problem = case("vit", trainable)
    captions = torch.tensor([0, 1, 0, 2, 1])
    expected = autograd(problem, captions)
    for path in PATHS.values():
        same(path(problem.towers, problem.states, problem.projection, ROLES, captions_B=captions), expected)


def test_all_covers_the_bare_parameters_of_open_clip() -> None:
    """None of these belongs to a linear layer on which a hook could sit, and the gradient of each is found."""
    problem = case("vit", "all", rank=1)
    found = forward_gradients(problem.towers, problem.states, problem.projection, ("removal",))["removal"]
    slices = problem.projection.slices()
    for name in (
        "visual.proj",
        "visual.class_embedding",
        "visual.positional_embedding",
        "visual.conv1.weight",
        "visual.transformer.resblocks.0.attn.in_proj_weight",
        "visual.transformer.resblocks.0.attn.in_proj_bias",
        "positional_embedding",
        "text_projection",
        "token_embedding.weight",
        "ln_final.weight",
        "logit_scale",
    ):
        assert (found[:, slices[name]] != 0).all(), name


@pytest.mark.parametrize("path", ["forward", "by sample", "by coordinate", "chosen"])
def test_positive_gradients_sum_to_that_of_the_loss(path: str) -> None:
    problem = case("vit", "last:1")
    found = PATHS[path](problem.towers, problem.states, problem.projection, ("positive",))["positive"]
    values = {name: p.clone().requires_grad_() for name, p in problem.towers.parameters.items()}
    pairs = [problem.towers.embed(values, *state) for state in problem.states]
    u, v = (torch.cat([pair[side] for pair in pairs]) for side in (0, 1))
    loss = contrastive.batch_loss(contrastive.logits(u, v, problem.towers.scale))
    whole = dict(zip(values, torch.autograd.grad(loss, list(values.values())), strict=True))
    torch.testing.assert_close(found.sum(0), problem.projection.project(whole), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", ["forward", "by sample", "by coordinate", "all of the hardest"])
def test_micro_batches_do_not_matter(path: str) -> None:
    one, other = (
        PATHS[path](problem.towers, problem.states, problem.projection, ("positive", "negative"))
        for problem in (case("vit", "last:1", micro=1), case("vit", "last:1", micro=5))
    )
    same(one, other)


def test_removal_is_the_positive_and_the_exact_negative_role() -> None:
    problem = case("vit", "heads")
    found = projected_gradients(problem.towers, problem.states, problem.projection, ROLES)
    torch.testing.assert_close(found["removal"], found["positive"] + found["negative_exact"])


def test_fewer_negatives_are_an_approximation_that_improves() -> None:
    problem = case("vit", "last:1")
    errors = []
    exact = reverse_gradients(problem.towers, problem.states, problem.projection, ("negative",))["negative"]
    for hardest in range(5):
        found = reverse_gradients(problem.towers, problem.states, problem.projection, ("negative",), hardest=hardest)
        errors.append(float((found["negative"] - exact).norm() / exact.norm()))
    assert errors[0] > 0.1 > 1e-9 > errors[4]
    assert errors[1] > errors[3]


def test_a_bias_that_is_not_trained_still_acts() -> None:
    problem = case("biased", "heads", biases=False)
    assert not any(name.endswith("bias") for name in problem.projection.parts)
    same(projected_gradients(problem.towers, problem.states, problem.projection, ROLES), autograd(problem))


@pytest.mark.parametrize("cheapest", ["forward", "sample", "coordinate"])
def test_the_cheapest_path_is_taken(cheapest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"forward": 3.0, "sample": 3.0, "coordinate": 3.0, cheapest: 2.0}
    taken: list[str] = []
    forward, reverse = gradients.forward_gradients, gradients.reverse_gradients
    monkeypatch.setattr(gradients, "path_costs", lambda *_: costs)

    def forward_mode(*arguments: Any, **options: Any) -> dict[Role, Tensor]:
        taken.append("forward")
        return forward(*arguments, **options)

    def reverse_mode(*arguments: Any, **options: Any) -> dict[Role, Tensor]:
        taken.append(options["by"])
        return reverse(*arguments, **options)

    monkeypatch.setattr(gradients, "forward_gradients", forward_mode)
    monkeypatch.setattr(gradients, "reverse_gradients", reverse_mode)
    problem = case("vit", "last:1")
    same(projected_gradients(problem.towers, problem.states, problem.projection, ROLES), autograd(problem))
    assert taken == [cheapest]


def test_what_each_path_costs_depends_on() -> None:
    small, large = (case("vit", "last:1", rank=rank) for rank in (1, 4))
    one, other, every = (
        gradients.path_costs(problem.towers, problem.states, problem.projection, roles)
        for problem, roles in ((small, ROLES[:1]), (large, ROLES[:1]), (large, ROLES))
    )
    assert {path for path in one if other[path] > one[path]} == {"forward"}  # the rank
    assert {path for path in one if every[path] > other[path]} == {"sample"}  # the number of roles
    assert (one["sample"], one["coordinate"]) == (2 * 5, 4 * 8)  # five samples, eight coordinates


def test_a_projection_of_other_parameters_is_refused() -> None:
    problem, other = case("vit", "last:1"), case("vit", "heads")
    with pytest.raises(ValueError, match="other parameters"):
        projected_gradients(problem.towers, problem.states, other.projection, ROLES)
    shapes = {name: tuple(p.shape) for name, p in other.towers.parameters.items()}
    reordered = dict(reversed(shapes.items()))
    projection = logra.build(reordered, 2, 10**6, 0, torch.device("cpu"), torch.float64)
    swapped = Case(other.towers, other.states, other.images, other.tokens, projection)
    same(projected_gradients(other.towers, other.states, projection, ROLES), autograd(swapped))


def test_embeddings_are_those_of_the_towers() -> None:
    problem = case("vit", "last:1", micro=2)
    model = problem.towers.loaded.model
    u, v = embed(problem.towers, problem.states)
    torch.testing.assert_close(u, model.encode_image(problem.images, normalize=True))  # type: ignore[operator]
    torch.testing.assert_close(v, model.encode_text(problem.tokens, normalize=True))  # type: ignore[operator]
