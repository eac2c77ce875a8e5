"""What samples take is counted as a hand would count it, on the meta device as with numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import jvp, vmap

from ecif.towers import Towers
from ecif.towers.footprint import SAMPLES, footprint, watched
from ecif.towers.loading import load
from tests.tiny import CONFIG, write_model

# Of a model whose parts differ in size: (n, 4) -> (n, 8) -> (n, 2), 8 bytes a number.
N = 101


def two_layers(device: str) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (N, 4), (4, 8), (8, 2)
    first, second, third = (torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes)
    return first, second, third


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_is_alive_together_is_counted(device: str) -> None:
    x, first, second = two_layers(device)

    def work() -> Tensor:
        hidden = x @ first  # 64 bytes a sample
        hidden = hidden.relu()  # 64 more, then the first ones are free
        return hidden @ second  # 16

    found = watched(work, [x, first, second], N)
    assert [found.of(n) for n in (1, 2, N)] == [128, 256, 128 * N]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_views_and_what_was_there_are_nothing_new(device: str) -> None:
    x, first, _ = two_layers(device)
    assert watched(lambda: x.T[:2].unsqueeze(0).expand(3, 2, N), [x, first], N).of(N) == 0
    assert watched(lambda: (first.T, x.view(-1), x.add_(1)), [x, first], N).of(N) == 0
    # Said not to have been there, its memory counts.
    assert watched(lambda: first.T, [x], N).of(1) == first.nbytes


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_samples_do_not_change_is_told_apart(device: str) -> None:
    x, first, _ = two_layers(device)

    def work() -> Tensor:
        copied = first.clone()  # 256 bytes, whatever the samples
        return x @ copied

    assert [watched(work, [x, first], N).of(n) for n in (1, 10)] == [256 + 64, 256 + 640]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_autograd_saves_is_alive(device: str) -> None:
    x = torch.zeros(N, dtype=torch.float64, device=device)

    def work(*, graph: bool) -> None:
        y = x.clone().requires_grad_(graph)
        for _ in range(3):
            y = y.exp()  # its result is what its derivative needs

    # The copy and three results, or the last two.
    assert watched(lambda: work(graph=True), [x], N).of(1) == 4 * 8
    assert watched(lambda: work(graph=False), [x], N).of(1) == 2 * 8


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_derivatives_carry_tangents_along(device: str) -> None:
    x = torch.zeros(N, dtype=torch.float64, device=device)
    one, along = (torch.zeros(*shape, N, dtype=torch.float64, device=device) for shape in ((), (5,)))
    # sin(x), cos(x), and the product of the latter with each direction.
    assert watched(lambda: jvp(torch.sin, (x,), (one,)), [x, one], N).of(1) == 3 * 8
    assert watched(lambda: vmap(lambda t: jvp(torch.sin, (x,), (t,))[1])(along), [x, along], N).of(1) == 7 * 8


def towers(folder: Path, trainable: str, dtype: torch.dtype = torch.float64) -> Towers:
    model, weights = write_model(folder, CONFIG)
    return Towers(load(str(model), str(weights), dtype), trainable, torch.device("cpu"))


@pytest.mark.parametrize("trainable", ["heads", "last:1", "all"])
def test_shapes_alone_tell_what_numbers_take(tmp_path: Path, trainable: str) -> None:
    of, samples = towers(tmp_path, trainable), 31
    images = torch.zeros((samples, *of.size, 3), dtype=torch.uint8)
    tokens = of.loaded.tokenize(["a dog"] * samples)
    along = {name: torch.zeros_like(value) for name, value in of.parameters.items()}

    def work() -> None:
        states = of.image_stem(images), of.text_stem(tokens)
        of.push_forward([along], *states)
        of.pull_back(*states, [of.embed(of.parameters, *states)])

    model = of.loaded.model
    real = watched(work, [*model.parameters(), *model.buffers(), *along.values()], samples)
    estimate = footprint(of)
    # Attention of the stems is fused where there are numbers, and takes less.
    assert real.of(samples) <= estimate.of(samples) <= 1.5 * real.of(samples)
    assert estimate.of(samples) - estimate.of(1) < samples * estimate.of(1)


def test_more_parameters_directions_and_digits_take_more(tmp_path: Path) -> None:
    heads, block, whole = (footprint(towers(tmp_path, choice)).of(SAMPLES) for choice in ("heads", "last:1", "all"))
    assert heads < block < whole
    assert block < footprint(towers(tmp_path, "last:1"), 8).of(SAMPLES)
    half = footprint(towers(tmp_path, "all", torch.float32)).of(SAMPLES)
    assert half == pytest.approx(whole / 2, rel=0.05)


def test_the_towers_stay_as_they_are(tmp_path: Path) -> None:
    of = towers(tmp_path, "last:1")
    before = {name: value.clone() for name, value in of.loaded.model.state_dict().items()}
    bare = of.shapes()
    footprint(of)
    assert {p.device.type for p in bare.loaded.model.parameters()} == {"meta"}
    after = of.loaded.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert isinstance(of.loaded.model, nn.Module)
    assert of.device.type == "cpu"
