"""Towers: the cut reproduces open_clip, the JVP and VJP agree, and coverage is what was asked for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ecif.errors import ModelError
from ecif.towers import Towers
from ecif.towers.loading import LoadedModel, load
from tests.tiny import CONFIG, write_model

CAPTIONS = ["a red circle", "a blue square", "two dogs"]
CHOICES = ["heads", "last:1", "last:2", "all"]


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    model, weights = write_model(tmp_path)
    return load(str(model), str(weights), torch.float64)


def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("choice", CHOICES)
def test_embeddings_are_those_of_open_clip(loaded: LoadedModel, choice: str) -> None:
    towers = Towers(loaded, choice, torch.device("cpu"))
    u, v = towers.embed(towers.parameters, towers.image_stem(images()), towers.text_stem(CAPTIONS))
    with torch.no_grad():
        torch.testing.assert_close(u, loaded.model.encode_image(images(), normalize=True))  # type: ignore[operator]
        torch.testing.assert_close(v, loaded.model.encode_text(loaded.tokenize(CAPTIONS), normalize=True))  # type: ignore[operator]


@pytest.mark.parametrize("choice", CHOICES)
def test_forward_and_reverse_mode_agree_with_a_difference(loaded: LoadedModel, choice: str) -> None:
    towers = Towers(loaded, choice, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    w = {n: torch.randn(p.shape, generator=generator, dtype=torch.float64) for n, p in towers.parameters.items()}
    state = towers.image_stem(images()), towers.text_stem(CAPTIONS)
    u, v, (du,), (dv,) = towers.push_forward([w], *state)
    step = 1e-6
    ahead = towers.embed({n: p + step * w[n] for n, p in towers.parameters.items()}, *state)
    behind = towers.embed({n: p - step * w[n] for n, p in towers.parameters.items()}, *state)
    for derivative, a, b in zip((du, dv), ahead, behind, strict=True):
        torch.testing.assert_close(derivative, (a - b) / (2 * step), rtol=1e-5, atol=1e-6)
    # <c, dU> + <c', dV> = <J^T (c, c'), w>
    c_u, c_v = torch.randn_like(u), torch.randn_like(v)
    (gradient,) = towers.pull_back(*state, [(c_u, c_v)])
    inner = sum(float((gradient[name] * w[name]).sum()) for name in w)
    assert inner == pytest.approx(float((c_u * du).sum() + (c_v * dv).sum()), rel=1e-9)


def test_embeddings_do_not_depend_on_the_micro_batch(loaded: LoadedModel) -> None:
    towers = Towers(loaded, "last:1", torch.device("cpu"))
    whole = towers.embed(towers.parameters, towers.image_stem(images()), towers.text_stem(CAPTIONS))
    parts = [
        towers.embed(towers.parameters, towers.image_stem(images()[n : n + 1]), towers.text_stem(CAPTIONS[n : n + 1]))
        for n in range(3)
    ]
    for side, expected in enumerate(whole):
        torch.testing.assert_close(torch.cat([part[side] for part in parts]), expected)


def test_coverage_names_what_each_choice_trains(loaded: LoadedModel) -> None:
    names = {choice: set(Towers(loaded, choice, torch.device("cpu")).parameters) for choice in CHOICES}
    assert names["heads"] == {"visual.proj", "text_projection"}
    assert names["heads"] < names["last:1"] < names["last:2"] < names["all"]
    assert {"visual.ln_post.weight", "ln_final.bias", "transformer.resblocks.1.attn.in_proj_weight"} <= names["last:1"]
    assert not any("resblocks.0" in name for name in names["last:1"])
    assert names["all"] == {name for name, _ in loaded.model.named_parameters()}
    coverage = Towers(loaded, "heads", torch.device("cpu")).coverage
    assert (coverage.covered, coverage.total) == (2 * 16 * 8, sum(p.numel() for p in loaded.model.parameters()))


def test_more_blocks_than_there_are(loaded: LoadedModel) -> None:
    with pytest.raises(ModelError, match="only 2 blocks"):
        Towers(loaded, "last:3", torch.device("cpu"))


@pytest.mark.parametrize(
    "change",
    [
        {"vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "patch_size": None}},  # ResNet
        {"custom_text": True},
        {"text_cfg": {**CONFIG["text_cfg"], "proj_type": "linear", "proj_bias": True}},
    ],
    ids=["resnet", "text tower of its own", "linear text projection"],
)
def test_other_towers_are_cut_right_or_refused(change: dict[str, object]) -> None:
    import open_clip

    from ecif.towers.loading import _transform

    config = copy.deepcopy(CONFIG) | change
    custom = config.pop("custom_text", False)
    torch.manual_seed(0)
    network = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config).double().eval()
    tokenize = open_clip.SimpleTokenizer(context_length=8)
    loaded = LoadedModel(network, _transform(network), tokenize, "0")
    size = network.visual.image_size
    x = torch.randn(2, 3, *(size if isinstance(size, tuple) else (size, size)), dtype=torch.float64)
    for choice in ("heads", "last:1", "all"):
        try:
            towers = Towers(loaded, choice, torch.device("cpu"))
        except ModelError:
            assert choice != "all"
            continue
        u, v = towers.embed(towers.parameters, towers.image_stem(x), towers.text_stem(["a", "b c"]))
        with torch.no_grad():
            torch.testing.assert_close(u, network.encode_image(x, normalize=True))
            torch.testing.assert_close(v, network.encode_text(tokenize(["a", "b c"]), normalize=True))


def test_a_cut_that_does_not_reproduce_the_model_is_refused(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    visual: Any = loaded.model.visual
    monkeypatch.setattr(visual, "_pool", lambda x: (x.mean(1), x))
    forward = type(visual).forward
    monkeypatch.setattr(visual, "forward", lambda x: 2 * forward(visual, x))
    with pytest.raises(ModelError, match="cannot be cut"):
        Towers(loaded, "last:1", torch.device("cpu"))


def test_bf16_needs_a_frozen_part(loaded: LoadedModel) -> None:
    with pytest.raises(ModelError, match="bf16"):
        Towers(loaded, "all", torch.device("cpu"), stem_dtype=torch.bfloat16)


@pytest.mark.parametrize("choice", CHOICES)
def test_several_directions_in_one_pass_are_those_one_by_one(loaded: LoadedModel, choice: str) -> None:
    towers = Towers(loaded, choice, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    directions = [
        {n: torch.randn(p.shape, generator=generator, dtype=torch.float64) for n, p in towers.parameters.items()}
        for _ in range(3)
    ]
    state = towers.image_stem(images()), towers.text_stem(CAPTIONS)
    u, v, du, dv = towers.derivatives(directions, lambda p: towers.embed(p, *state), together=True)
    torch.testing.assert_close((u, v, du, dv), towers.push_forward(directions, *state), rtol=1e-10, atol=1e-12)
    for r, direction in enumerate(directions):
        alone = towers.push_forward([direction], *state)
        torch.testing.assert_close((u, v), alone[:2], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close((du[r], dv[r]), (alone[2][0], alone[3][0]), rtol=1e-10, atol=1e-12)
