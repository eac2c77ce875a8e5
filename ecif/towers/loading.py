"""An open_clip model with its weights, its own eval transform and tokenizer, and refusal of what does not fit.

Models come from an open_clip name or from a JSON config file; weights from a pretrained tag or a file.
Weight files are read without ever unpickling code (safetensors, or torch.load with weights_only).
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ecif.errors import ModelError

WEIGHT_ENDINGS = (".safetensors", ".pt", ".pth", ".bin")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in eval mode and what turns samples into its input.

    Attributes:
        transform: PIL image -> (3, H, W) float tensor, the model's own eval transform.
        tokenize: list of captions -> (n, context_length) int64 tensor.
        fingerprint: sha256 over config and weights: two models with the same one give the same scores.
    """

    model: nn.Module
    transform: Callable[[Any], Tensor]
    tokenize: Callable[[list[str]], Tensor]
    fingerprint: str


def load(model: str, pretrained: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """Build `model` and load `pretrained` into it.

    Args:
        model: an open_clip name, or the path of a JSON config.
        pretrained: a tag of that name, or the path of a weights file.

    Raises:
        ModelError: unknown model or tag, unreadable or ill-fitting weights, or a loss that is not the
            softmax contrastive loss.
    """
    if not model:
        raise ModelError("--model is needed: an open_clip name or the path of a JSON model config")
    if not pretrained:
        raise ModelError("--pretrained is needed: influence is a property of trained weights")
    if model.endswith(".json"):
        config = _read_config(Path(model))
        network, tokenize = _from_config(config, model)
        _load_file(network, _weights_file(pretrained))
    else:
        config = _known_config(model)
        with _quiet():
            tokenize = open_clip.get_tokenizer(model)
        if pretrained.endswith(WEIGHT_ENDINGS):
            weights = _weights_file(pretrained)
            network = _build(model, model)
            _load_file(network, weights)
        else:
            network = _from_tag(model, pretrained)
    _refuse_other_losses(network, model)
    network = network.to(dtype).eval().requires_grad_(False)
    return LoadedModel(network, _transform(network), tokenize, _fingerprint(config, network))


@contextmanager
def _quiet() -> Iterator[None]:
    """open_clip warns on the root logger that a model without a tag is random; here a file fills it."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _known_config(model: str) -> dict[str, Any]:
    config: dict[str, Any] | None = open_clip.get_model_config(model)
    if config is None:
        raise ModelError(
            f"--model: open_clip has no model {model!r}; open_clip.list_models() names them, "
            "or give the path of a JSON model config (ending in .json)"
        )
    return config


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"--model: {path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelError(f"--model: {path}: is not a JSON model config: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"--model: {path}: is not an open_clip model config (not an object)")
    if missing := {"embed_dim", "vision_cfg", "text_cfg"} - set(config):
        raise ModelError(f"--model: {path}: is not an open_clip model config (without {', '.join(sorted(missing))})")
    return config


def _from_config(config: dict[str, Any], model: str) -> tuple[nn.Module, Callable[[list[str]], Tensor]]:
    # open_clip's table of named configs is global; a folder of its own keeps two files of one name apart.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "open_clip_config.json").write_text(json.dumps({"model_cfg": config}), "utf-8")
        network = _build(f"local-dir:{folder}", model)
        hub_tokenizer = config["text_cfg"].get("hf_tokenizer_name")
        with _quiet():
            if hub_tokenizer:
                tokenize = open_clip.tokenizer.HFTokenizer(
                    hub_tokenizer, context_length=config["text_cfg"].get("context_length", 77)
                )
            else:
                tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    return network, tokenize


def _build(name: str, model: str) -> nn.Module:
    try:
        with _quiet():
            # The towers' own pretrained parts are not fetched: the weights file holds everything.
            network: nn.Module = open_clip.create_model(
                name, load_weights=False, pretrained_image=False, pretrained_text=False
            )
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, AssertionError) as error:
        raise ModelError(f"--model: open_clip cannot build {model!r}: {error}") from error
    return network


def _weights_file(pretrained: str) -> Path:
    path = Path(pretrained)
    if not pretrained.endswith(WEIGHT_ENDINGS):
        raise ModelError(f"--pretrained: {pretrained!r} is not a weights file ({', '.join(WEIGHT_ENDINGS)})")
    if not path.is_file():
        raise ModelError(f"--pretrained: there is no file {pretrained!r}")
    return path


def _from_tag(name: str, tag: str) -> nn.Module:
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        known = f"its tags are {', '.join(tags)}" if tags else "it has none"
        raise ModelError(f"--pretrained: {tag!r} is neither a weights file nor a tag of {name!r}; {known}")
    try:
        network: nn.Module = open_clip.create_model(name, pretrained=tag, weights_only=True)
    except Exception as error:
        raise ModelError(f"--pretrained: the weights {tag!r} of {name!r} cannot be loaded: {error}") from error
    return network


def _load_file(network: nn.Module, weights: Path) -> None:
    try:
        open_clip.load_checkpoint(network, str(weights), strict=True, weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, EOFError, OSError, StopIteration, AttributeError) as error:
        raise ModelError(f"--pretrained: {weights}: is not a readable weights file: {error}") from error
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        first = str(error).strip().splitlines()
        detail = "; ".join(line.strip()[:300] for line in first[:4])
        raise ModelError(f"--pretrained: {weights}: the weights do not fit the model: {detail}") from error


def _refuse_other_losses(network: Any, model: str) -> None:
    if getattr(network, "logit_bias", None) is not None:
        raise ModelError(
            f"--model: {model!r} has a logit bias: it is trained with a sigmoid loss (SigLIP), in which pairs do "
            "not compete in a softmax. The influence computed here is that of the softmax contrastive loss and "
            "would be wrong for it."
        )
    if not hasattr(network, "logit_scale") or not hasattr(network, "encode_text"):
        raise ModelError(f"--model: {model!r} is not a pair of image and text towers with a logit scale")
    if hasattr(network, "text_decoder"):
        raise ModelError(f"--model: {model!r} also trains a captioning loss (CoCa), which is not covered")
    if network.logit_scale.numel() != 1:
        raise ModelError(f"--model: {model!r} has {network.logit_scale.numel()} logit scales; one is supported")


def _transform(network: nn.Module) -> Callable[[Any], Tensor]:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    visual: Any = network.visual
    preprocess = open_clip.get_model_preprocess_cfg(network)
    if preprocess.get("size") is None:
        preprocess["size"] = visual.image_size
    transform: Callable[[Any], Tensor] = image_transform_v2(PreprocessCfg(**preprocess), is_train=False)
    return transform


def _fingerprint(config: dict[str, Any], network: nn.Module) -> str:
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().contiguous().cpu().numpy())
    return digest.hexdigest()
