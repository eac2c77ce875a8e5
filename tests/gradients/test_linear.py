"""The fast path for pointwise losses: equal to autograd sample by sample, and it refuses what it cannot see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ecif import logra
from ecif.gradients.linear import linear_gradients
from ecif.logra import Projection


class Small(nn.Module):
    """Tokens -> classes, with a layer used twice and an operation in place on a layer's output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.first = nn.Linear(6, 8)
        self.again = nn.Linear(8, 8, bias=False)
        self.last = nn.Linear(8, 5)
        self.act = nn.ReLU(inplace=True)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.act(self.first(self.embed(tokens)))
        for _ in range(2):
            x = torch.tanh(self.again(x))
        y: Tensor = self.last(x)
        return y.mean(1)


def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def project(model: nn.Module, names: list[str], rank: int = 3) -> Projection:
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if name in names}
    return logra.build(shapes, rank, 10**6, 0, torch.device("cpu"), torch.float64)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Small().double()


BATCH = (torch.arange(12).reshape(4, 3) % 11, torch.tensor([0, 4, 2, 2]))
COVERED = ["first.weight", "first.bias", "again.weight", "last.weight", "last.bias"]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("rank", [3, 100], ids=["projected", "whole"])
def test_equals_autograd_sample_by_sample(model: nn.Module, frozen: bool, rank: int) -> None:
    projection = project(model, COVERED, rank)
    named = {name: dict(model.named_parameters())[name] for name in projection.parts}
    expected = []
    for n in range(4):
        (loss,) = losses(model, (BATCH[0][n : n + 1], BATCH[1][n : n + 1]))
        expected.append(projection.project(dict(zip(named, torch.autograd.grad(loss, list(named.values()))))))  # noqa: B905
    model.requires_grad_(not frozen)
    got = linear_gradients(model, losses, BATCH, projection)
    torch.testing.assert_close(got, torch.stack(expected), rtol=1e-11, atol=1e-12)
    assert not got.requires_grad
    assert all(parameter.requires_grad == (not frozen) for parameter in model.parameters())
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_parameter_of_another_module_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"embed\.weight: is no weight or bias of an nn\.Linear"):
        linear_gradients(model, losses, BATCH, project(model, [*COVERED, "embed.weight"]))


def test_a_projection_of_other_shapes_is_refused(model: nn.Module) -> None:
    projection = logra.build({"first.weight": (4, 4)}, 2, 99, 0, torch.device("cpu"), torch.float64)
    with pytest.raises(ValueError, match="the projection is for"):
        linear_gradients(model, losses, BATCH, projection)


def test_a_layer_that_is_not_called_is_refused() -> None:
    """nn.MultiheadAttention never calls its own out_proj: a hook there sees nothing."""
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double().train()
    projection = project(model, ["linear1.weight", "self_attn.out_proj.weight"])
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"self_attn\.out_proj: the layer was not called as a module"):
        linear_gradients(model, lambda m, inputs: m(inputs).sum((1, 2)), x, projection)


def test_a_shared_weight_is_refused(model: nn.Module) -> None:
    tied = nn.Linear(6, 11, bias=False)
    tied.weight = model.get_parameter("embed.weight")
    model.add_module("tied", tied)
    projection = logra.build({"tied.weight": (11, 6)}, 2, 99, 0, torch.device("cpu"), torch.float64)
    with pytest.raises(ValueError, match="shared with another module"):
        linear_gradients(model, losses, BATCH, projection)


def test_samples_must_stay_apart(model: nn.Module) -> None:
    def flat(m: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        y = m.first(m.embed(batch[0]).flatten(0, 1))  # type: ignore[operator]
        return y.unflatten(0, (4, 3)).sum((1, 2))

    projection = project(model, ["first.weight"])
    with pytest.raises(ValueError, match="first axis"):
        linear_gradients(model, flat, BATCH, projection)
    with pytest.raises(ValueError, match="one number per sample"):
        linear_gradients(model, lambda m, batch: m(batch[0]), BATCH, projection)
