"""Pairs go through in parts of any size, and the estimate is near what the operating system says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import micro
from ecif.towers import State
from tests.tiny import write_model


def test_parts_cover_all_pairs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, weights = write_model(tmp_path)
    towers = micro.engine_of(str(model), str(weights), "heads").towers
    seen: list[int] = []
    real = towers.image_stem

    def counted(images: torch.Tensor) -> State:
        seen.append(len(images))
        return real(images)

    monkeypatch.setattr(towers, "image_stem", counted)
    along = {name: torch.zeros_like(value) for name, value in towers.parameters.items()}
    micro.in_parts(towers, along, *micro.inputs(towers, 7), 3)
    assert seen == [3, 3, 1]


@pytest.mark.integration
@pytest.mark.parametrize("trainable", ["heads", "last:1"])
def test_the_estimate_is_near_the_peak_of_a_process(trainable: str) -> None:
    """Within a factor of two, which is what half of the memory is left alone for; what tensors take, to a tenth."""
    command = [sys.executable, "-m", "bench.micro", "memory", "--models", "twelve", "--sizes", "32"]
    ended = subprocess.run(
        [*command, "--trainable", trainable], check=True, capture_output=True, text=True, timeout=600
    )
    cells = [cell.strip() for cell in ended.stdout.splitlines()[-1].strip("|").split("|")]
    assert cells[:3] == ["twelve", trainable, "32"]
    assert 0.5 < float(cells[-2]) < 2
    assert 0.9 < float(cells[-1]) < 1.1
