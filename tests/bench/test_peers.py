"""What the comparison with other libraries runs on our side, and how it talks to its children."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from bench.method.peers import Child
from bench.peers import collect
from bench.peers.plain import Sizes, build, losses

TINY = Sizes(width=8, layers=2, heads=2, vocabulary=11, tokens=5, samples=6, batch=4, rank=2)


@pytest.mark.parametrize("rank", [0, 2], ids=["whole", "projected"])
def test_our_side_collects_the_gradients_of_each_sample(rank: int, tmp_path: Path) -> None:
    model, ids, modules = build(TINY)
    assert len(modules) == 6 * TINY.layers
    rows = collect.ecif(model, ids, modules, TINY, rank, str(tmp_path))()
    weights = [model.get_parameter(f"{name}.weight") for name in modules]
    assert rows.shape == (6, 12 * rank**2 if rank else sum(w.numel() for w in weights))
    for n in range(6):
        (loss,) = losses(model, ids[n : n + 1])
        expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])
        if rank:
            assert 0 < float(rows[n].norm()) <= float(expected.norm())
        else:
            torch.testing.assert_close(rows[n], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "size"), [("ecif", 12 * TINY.rank**2), ("along", 1)])
def test_a_child_measures_when_asked(tmp_path: Path, name: str, size: int) -> None:
    with (tmp_path / "log").open("w") as log:
        child = Child.start(name, Path(sys.executable), TINY, log)
        try:
            assert len(child.about["norms"]) == 6
            assert child.measure(log)["size"] == size
            assert child.measure(log)["cpu"] > 0
        finally:
            child.stop()
    assert child.process.returncode == 0


def test_a_child_that_ends_early_is_reported(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log, pytest.raises(SystemExit, match=r"ended early, see .*log"):
        Child.start("no such library", Path(sys.executable), TINY, log)
