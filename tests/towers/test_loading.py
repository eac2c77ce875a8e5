"""Models that are wrong in some way are refused with a reason that names the file or the setting."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ecif.errors import ModelError
from ecif.towers.loading import load
from tests.tiny import CONFIG, write_model


def test_weights_from_safetensors_and_pt_are_the_same_model(tmp_path: Path) -> None:
    model, weights = write_model(tmp_path)
    torch.save({"state_dict": load_file(weights)}, tmp_path / "weights.pt")
    first, second = load(str(model), str(weights)), load(str(model), str(tmp_path / "weights.pt"))
    assert first.fingerprint == second.fingerprint
    assert load(str(model), str(write_model(tmp_path / "other", seed=1)[1])).fingerprint != first.fingerprint


def test_two_configs_of_one_name_do_not_mix(tmp_path: Path) -> None:
    model, weights = write_model(tmp_path / "a")
    config = copy.deepcopy(CONFIG)
    config["embed_dim"] = 6
    other, other_weights = write_model(tmp_path / "b", config)
    assert load(str(other), str(other_weights)).model.visual.proj.shape[1] == 6  # type: ignore[union-attr, index]
    assert load(str(model), str(weights)).model.visual.proj.shape[1] == 8  # type: ignore[union-attr, index]


def test_the_eval_transform_is_the_models_own(tmp_path: Path) -> None:
    from PIL import Image

    model, weights = write_model(tmp_path)
    x = load(str(model), str(weights)).transform(Image.new("RGB", (40, 30), "red"))
    assert x.shape == (3, 16, 16)
    red = (1 - 0.48145466) / 0.26862954
    assert float(x[0].mean()) == pytest.approx(red, abs=1e-4)


def refusal(model: str, pretrained: str) -> str:
    with pytest.raises(ModelError) as caught:
        load(model, pretrained)
    return str(caught.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    model, weights = write_model(tmp_path)
    assert "--model is needed" in refusal("", str(weights))
    assert "--pretrained is needed" in refusal(str(model), "")
    assert "no model 'ViT-nonsense'" in refusal("ViT-nonsense", "openai")
    assert "laion2b_s34b_b79k" in refusal("ViT-B-32", "no-such-tag")
    assert "there is no file" in refusal(str(model), str(tmp_path / "none.safetensors"))
    assert "cannot be read" in refusal(str(tmp_path / "none.json"), str(weights))


def test_weights_of_another_model(tmp_path: Path) -> None:
    model, _ = write_model(tmp_path)
    config = copy.deepcopy(CONFIG)
    config["embed_dim"] = 12
    _, other = write_model(tmp_path / "other", config)
    message = refusal(str(model), str(other))
    assert str(other) in message
    assert "do not fit" in message


@pytest.mark.parametrize("content", [b"", b"not tensors at all" * 10], ids=["empty", "text"])
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_files_that_hold_no_weights(tmp_path: Path, name: str, content: bytes) -> None:
    model, _ = write_model(tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / name).write_bytes(content)
    assert "not a readable weights file" in refusal(str(model), str(tmp_path / "bad" / name))


def test_pickles_with_code_are_not_run(tmp_path: Path) -> None:
    model, _ = write_model(tmp_path)
    marker = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (marker,))

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pt")
    assert "not a readable weights file" in refusal(str(model), str(tmp_path / "trap.pt"))
    assert not marker.exists()


def test_configs_that_are_none(tmp_path: Path) -> None:
    _, weights = write_model(tmp_path)
    bad = tmp_path / "bad.json"
    for content, reason in (("{", "not a JSON"), ("[]", "not an object"), ('{"embed_dim": 4}', "text_cfg, vision_cfg")):
        bad.write_text(content)
        assert reason in refusal(str(bad), str(weights))
    config = copy.deepcopy(CONFIG)
    config["vision_cfg"]["head_width"] = 5
    bad.write_text(json.dumps(config))
    assert "cannot build" in refusal(str(bad), str(weights))


def test_models_with_another_loss_are_refused_with_the_reason(tmp_path: Path) -> None:
    model, weights = write_model(tmp_path)
    config = copy.deepcopy(CONFIG) | {"init_logit_bias": -10.0}
    model.write_text(json.dumps(config))
    tensors = load_file(weights) | {"logit_bias": torch.tensor(-10.0)}
    save_file(tensors, weights)
    assert "SigLIP" in refusal(str(model), str(weights))
