"""Tiny open_clip models for tests: built from a JSON config, never downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

CONFIG: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def write_model(folder: Path, config: dict[str, Any] | None = None, seed: int = 0) -> tuple[Path, Path]:
    """Write `model.json` and randomly initialised `weights.safetensors`; returns their paths."""
    config = config or CONFIG
    folder.mkdir(parents=True, exist_ok=True)
    model_file, weights_file = folder / "model.json", folder / "weights.safetensors"
    model_file.write_text(json.dumps(config), "utf-8")
    torch.manual_seed(seed)
    network = open_clip.CLIP(**config)
    with torch.no_grad():
        # Away from the initial point, where biases are zero and embeddings of all samples nearly equal.
        for parameter in network.parameters():
            if parameter.ndim:
                parameter += 0.05 * torch.randn_like(parameter)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, weights_file)
    return model_file, weights_file
