"""Recalls and accuracy against counting by hand; ties and numbers that are none find nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ecif.demo.training import Data
from ecif.effects.judging import ZERO_SHOT, Classes, HeldOut, judge


class Given:
    """Towers that give the embeddings they are handed: images and tokens are vectors here."""

    def encode_image(self, images: Tensor, normalize: bool) -> Tensor:
        return F.normalize(images, dim=-1) if normalize else images

    def encode_text(self, tokens: Tensor, normalize: bool) -> Tensor:
        return F.normalize(tokens, dim=-1) if normalize else tokens


def _data(images: Tensor, texts: Tensor, captions: list[str]) -> Data:
    return Data(images, texts, tuple(f"{n}" for n in range(len(images))), tuple(captions), {})


def _naive(images: Tensor, texts: Tensor, captions: list[str], k: int) -> tuple[float, float]:
    """Recalls by sorting, one row after another."""
    of = dict(zip(captions, texts, strict=True))
    names = list(of)
    similarity = np.array([[float(F.cosine_similarity(i, of[c], dim=0)) for c in names] for i in images])
    forth = [captions[m] in [names[c] for c in np.argsort(-similarity[m])[:k]] for m in range(len(images))]
    back = [names[c] in [captions[m] for m in np.argsort(-similarity[:, c])[:k]] for c in range(len(names))]
    return float(np.mean(forth)), float(np.mean(back))


@pytest.mark.parametrize("seed", range(5))
def test_recalls_are_those_of_sorting(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    captions = [f"{n % 21}" for n in range(60)]
    concept = torch.randn(21, 6, generator=random, dtype=torch.float64)
    texts = torch.stack([concept[int(c)] for c in captions])
    images = texts + torch.randn(60, 6, generator=random, dtype=torch.float64)
    found = judge(Given(), HeldOut(_data(images, texts, captions)))
    for k in (1, 5):
        assert (found[f"image->text R@{k}"], found[f"text->image R@{k}"]) == _naive(images, texts, captions, k)
    assert 0 < found["image->text R@1"] < found["image->text R@5"]


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_a_model_that_tells_nothing_apart_finds_nothing(value: float) -> None:
    same = torch.full((25, 4), value)
    found = judge(Given(), HeldOut(_data(same, same, [f"{n}" for n in range(25)])))
    assert list(found.values()) == [0.0] * 4


def test_equal_captions_are_one_caption() -> None:
    eye = torch.eye(4)
    found = judge(Given(), HeldOut(_data(eye[[0, 1, 1]], eye[[0, 1, 1]], ["a", "b", "b"])))
    # Two captions find an image or they do not: no share is made of that.
    assert found == {"image->text R@1": 1.0, "image->text R@5": 1.0}


def test_zero_shot_takes_the_mean_of_a_classs_prompts_and_skips_what_has_no_class() -> None:
    eye = torch.eye(3)
    images = torch.stack([eye[0], eye[1], eye[1], eye[2]])
    classes = Classes((eye[[0, 0]], torch.stack([eye[1], eye[1] + 0.5 * eye[2]])), torch.tensor([0, 1, 0, -1]))
    found: dict[str, Any] = judge(Given(), HeldOut(_data(images, images, ["a", "b", "c", "d"]), classes))
    assert found[ZERO_SHOT] == pytest.approx(2 / 3)
    assert next(iter(found)) == ZERO_SHOT
