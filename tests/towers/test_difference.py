"""Central differences: as near to the derivative as float32 allows, the same for any number of directions, checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ecif.errors import ModelError
from ecif.towers import Parameters, Towers
from ecif.towers.cut import State
from ecif.towers.difference import PROBED, Differences
from ecif.towers.loading import load
from tests.tiny import write_model

CAPTIONS = [f"a photo of {number} dogs" for number in range(PROBED + 4)]


def towers(folder: Path, choice: str, dtype: torch.dtype) -> Towers:
    model, weights = write_model(folder)
    return Towers(load(str(model), str(weights), dtype), choice, torch.device("cpu"))


def states(of: Towers) -> tuple[State, State]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(len(CAPTIONS), 3, 16, 16, generator=generator, dtype=torch.float64).to(of.dtype)
    return of.image_stem(images), of.text_stem(CAPTIONS)


def direction(of: Towers, seed: int, length: float = 1.0) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    return {n: length * torch.randn(p.shape, generator=generator).to(p) for n, p in of.parameters.items()}


def error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize(("dtype", "derivative", "value"), [(torch.float64, 1e-8, 1e-9), (torch.float32, 2e-3, 2e-4)])
@pytest.mark.parametrize("choice", ["last:1", "all"])
@pytest.mark.parametrize("length", [1e-6, 1e4])
def test_a_difference_is_the_derivative(
    tmp_path: Path, choice: str, dtype: torch.dtype, derivative: float, value: float, length: float
) -> None:
    of = towers(tmp_path, choice, dtype)
    along = [direction(of, seed, length) for seed in (1, 2)]
    u, v, du, dv = Differences(of).push_forward(along, *states(of))
    exact = of.push_forward(along, *states(of))
    for r in range(2):
        assert error(du[r], exact[2][r]) < derivative
        assert error(dv[r], exact[3][r]) < derivative
    assert error(u, exact[0]) < value
    assert error(v, exact[1]) < value
    torch.testing.assert_close(u.norm(dim=1), torch.ones(len(u), dtype=dtype))


def test_captions_alone_are_those_of_the_pairs(tmp_path: Path) -> None:
    of = towers(tmp_path, "all", torch.float64)
    image, text = states(of)
    along = [direction(of, 1)]
    both, alone = Differences(of), Differences(of)
    assert torch.equal(both.push_forward(along, image, text)[1], alone.push_forward_texts(along, text)[0])
    assert torch.equal(both.push_forward(along, image, text)[3], alone.push_forward_texts(along, text)[1])


def test_the_first_pairs_choose_the_steps_of_all_micro_batches(tmp_path: Path) -> None:
    of = towers(tmp_path, "all", torch.float64)
    image, text = states(of)
    along = [direction(of, 1)]
    whole = Differences(of).push_forward(along, image, text)
    parts = Differences(of)
    halves = [
        parts.push_forward(along, tuple(x[rows] for x in image), tuple(x[rows] for x in text))
        for rows in (slice(0, PROBED), slice(PROBED, None))
    ]
    for number, axis in enumerate((0, 0, 1, 1)):
        joined = torch.cat([half[number] for half in halves], axis)
        torch.testing.assert_close(joined, whole[number], rtol=1e-8, atol=1e-9)


def test_a_direction_that_leaves_a_tower_alone_moves_nothing_there(tmp_path: Path) -> None:
    of = towers(tmp_path, "last:1", torch.float32)
    one_tower = {n: part * n.startswith("visual.") for n, part in direction(of, 1).items()}
    _, v, du, dv = Differences(of).push_forward([one_tower], *states(of))
    exact = of.push_forward([one_tower], *states(of))
    assert error(du, exact[2]) < 2e-3
    assert not dv.any()
    torch.testing.assert_close(v, exact[1])


def test_what_no_difference_follows_is_refused(tmp_path: Path) -> None:
    """Rounded weights move in jumps: the derivative says one thing, the difference another."""
    of = towers(tmp_path, "all", torch.float32)
    embed = of.embed_texts

    def rounded(parameters: Parameters, state: State) -> Tensor:
        found = embed(parameters, state)
        return found + (found.detach() * 64).round() / 64 - found.detach()

    of.embed_texts = rounded  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="--derivative exact"):
        Differences(of).push_forward([direction(of, 1)], *states(of))
