"""Nothing between the batches of a shard waits for the device: numbers leave it once, whatever the segmentations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ecif.canaries import terms
from ecif.progress import Silent
from ecif.stages import score
from ecif.stages.transfer import numbers_on
from tests.stages.test_fit import corpus as corpus  # the fixture
from tests.stages.test_fit import fit_all, prepare

# What hands numbers to Python, or needs them to know the shape of a result: a GPU is waited for in each.
LEAVING = ("cpu", "numpy", "item", "tolist", "__bool__", "__float__", "__int__", "__index__", "__array__")
SHAPED = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "_unique2")


class Waits(TorchDispatchMode):
    """Counts both kinds, within the block."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        for name in LEAVING:
            monkeypatch.setattr(torch.Tensor, name, self._counted(name, getattr(torch.Tensor, name)))

    def _counted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(tensor: torch.Tensor, *args: Any, **named: Any) -> Any:
            self.found[name] += 1
            return method(tensor, *args, **named)

        return counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in SHAPED:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("columns", [(), ("tracin", "clip_logit", "l_relative")])
def test_batches_do_not_wait_for_the_device(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, columns: tuple[str, ...]
) -> None:
    found = []
    for segmentations in (2, 5):
        run, engine = prepare(
            corpus, trainable="last:1", segmentations=segmentations, canaries=0.3, columns=columns, workers=0,
            column_probes=4,
        )  # fmt: skip
        fit_all(run, engine)
        direction = score.load_direction(run, engine)
        score.score_frame(run, engine, run.inventory.shards[0], direction, Silent())
        with monkeypatch.context() as patch:
            # As on a GPU, where rows are not picked by what is in them.
            without = terms._without
            patch.setattr(terms, "_without", lambda *of, all_rows, f=without: f(*of, all_rows=True))
            with Waits(patch) as waits:
                score.score_frame(run, engine, run.inventory.shards[0], direction, Silent())
        assert sum(waits.found.values()) > 0
        found.append(waits.found)
    assert found[0] == found[1]


def test_all_rows_give_what_the_chosen_rows_give() -> None:
    """What `canaries.terms` does on a device, and on a CPU."""
    generator = torch.Generator().manual_seed(0)
    s_KB, ds_KB = (9 * torch.randn(12, 12, generator=generator, dtype=torch.float64) for _ in range(2))
    hosts_C = torch.tensor([1, 4, 5])
    chosen, everywhere = (terms._without(s_KB, ds_KB, hosts_C, all_rows=way) for way in (False, True))
    others = torch.ones(12, 3, dtype=torch.bool)
    others[hosts_C, torch.arange(3)] = False
    for a, b in zip(chosen, everywhere, strict=True):
        torch.testing.assert_close(a[others], b[others], rtol=1e-12, atol=1e-12)


def test_numbers_arrive() -> None:
    numbers = np.array([3, 1, 2])
    assert numbers_on(torch.device("cpu"), numbers).tolist() == [3, 1, 2]
