"""The two halves of a transform are the transform, to the last bit."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2

from ecif.towers.pixels import split

CPU = torch.device("cpu")


@settings(max_examples=25)
@given(
    st.integers(4, 60),
    st.integers(4, 60),
    st.sampled_from(["shortest", "longest", "squash"]),
    st.sampled_from(["bicubic", "bilinear"]),
    st.integers(0, 2**31),
)
def test_the_halves_are_the_whole(width: int, height: int, mode: str, interpolation: str, seed: int) -> None:
    whole = image_transform_v2(PreprocessCfg(size=16, resize_mode=mode, interpolation=interpolation), is_train=False)
    noise = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), np.uint8)
    images = [PIL.Image.fromarray(one) for one in noise]
    halves = split(whole, CPU)
    assert halves is not None
    got = halves.finish(torch.stack([halves.take(image) for image in images]))
    assert torch.equal(got, torch.stack([whole(image) for image in images]))
    assert got.is_contiguous()


@pytest.mark.parametrize("other", [lambda image: torch.zeros(3, 2, 2), torch.nn.Identity()])
def test_another_transform_runs_whole(other: object) -> None:
    assert split(other, CPU) is None  # type: ignore[arg-type]
