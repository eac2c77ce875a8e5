"""float32 is float32 in every product of a tower, unless TensorFloat-32 was asked for, whatever ran before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ecif.errors import UsageError
from ecif.settings import ScoreSettings
from ecif.stages.engine import load_engine
from ecif.towers import Towers
from ecif.towers.loading import load
from tests.tiny import write_model


def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("tf32", [False, True])
def test_the_flags_are_those_of_the_tower_that_runs(tmp_path: Path, tf32: bool) -> None:
    model, weights = write_model(tmp_path)
    loaded = load(str(model), str(weights), torch.float32)
    of = Towers(loaded, "last:1", torch.device("cpu"), tf32=tf32)
    seen = []
    for part in of.image.modules():
        part.register_forward_pre_hook(lambda *_: seen.append(flags()))
    image = of.image_stem(torch.zeros(1, 3, 16, 16))
    assert set(seen) == {(tf32, tf32)}
    assert flags() == (False, False)
    seen.clear()
    of.push_forward([of.parameters], image, of.text_stem(["a dog"]))
    assert set(seen) == {(tf32, tf32)}
    assert flags() == (False, False)


def test_tf32_is_refused_without_a_gpu_and_with_differences(tmp_path: Path) -> None:
    model, weights = write_model(tmp_path)
    with pytest.raises(UsageError, match="--precision tf32: that is arithmetic of NVIDIA GPUs"):
        load_engine(ScoreSettings(model=str(model), pretrained=str(weights), precision="tf32", device="cpu"))
    with pytest.raises(ValueError, match="--derivative difference needs the digits"):
        ScoreSettings(precision="tf32", derivative="difference")
