"""The kernels of attention are the process's; threads that want different ones take turns."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from ecif.towers import Towers
from ecif.towers.attention import differentiable_attention, fused_attention
from ecif.towers.loading import load
from tests.tiny import write_model


def kernels() -> tuple[bool, bool]:
    """(fused kernels are allowed, so is the fast path of nn.MultiheadAttention)."""
    return torch.backends.cuda.flash_sdp_enabled(), torch.backends.mha.get_fastpath_enabled()


def test_the_outermost_choice_holds() -> None:
    before = kernels()
    with differentiable_attention():
        assert kernels() == (False, False)
        with fused_attention():
            assert kernels() == (False, False)
        assert kernels() == (False, False)
    assert kernels() == before


def test_an_error_inside_gives_the_kernels_back() -> None:
    before = kernels()
    try:
        with differentiable_attention():
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert kernels() == before


def test_stems_run_side_by_side_and_tails_alone() -> None:
    order: list[str] = []
    inside = threading.Barrier(3, timeout=60)
    leave = threading.Event()

    def stem() -> None:
        with fused_attention():
            inside.wait()
            leave.wait(60)
            order.append("stem")

    def tail() -> None:
        with differentiable_attention():
            order.append("in")
            assert kernels() == (False, False)
            order.append("out")

    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(stem), pool.submit(stem)]
        inside.wait()  # two stems and this test
        found += [pool.submit(tail), pool.submit(tail)]
        leave.set()
        for future in found:
            future.result(60)
    assert order == ["stem", "stem", "in", "out", "in", "out"]


def test_several_models_in_threads_give_what_each_gives_alone(tmp_path: Path) -> None:
    """Stems and derivatives of tails at the same time: to the last bit, and without an error."""
    model, weights = write_model(tmp_path)
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    captions = ["a red circle", "a blue square", "two dogs"]

    def work(towers: Towers) -> list[torch.Tensor]:
        w = {name: torch.ones_like(p) for name, p in towers.parameters.items()}
        found = []
        for _ in range(20):
            states = towers.image_stem(images), towers.text_stem(captions)
            found = [*states[0], *states[1], *towers.push_forward([w], *states)]
            found += towers.embed(towers.parameters, *states)
            found += towers.pull_back(*states, [(found[-2], found[-1])])[0].values()
        return found

    several = [Towers(load(str(model), str(weights), torch.float32), "last:1", torch.device("cpu")) for _ in range(3)]
    alone = work(several[0])
    with ThreadPoolExecutor(3) as pool:
        for together in pool.map(work, several):
            assert all(map(torch.equal, together, alone))
