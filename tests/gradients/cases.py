"""open_clip's own towers, tiny, with a batch, and autograd's projected gradients of every role as the oracle."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from torch import Tensor
from torch.func import functional_call

from ecif import contrastive, logra
from ecif.gradients import Role, States
from ecif.logra import Projection
from ecif.towers import Towers
from ecif.towers.loading import LoadedModel
from tests.tiny import CONFIG

CAPTIONS = ["a red circle", "a blue square", "two dogs", "a cat", "a green house"]
ROLES: tuple[Role, ...] = ("positive", "negative", "negative_exact", "removal")
CHANGES: dict[str, dict[str, Any]] = {
    "vit": {},
    "resnet": {"vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "patch_size": None}},
    "biased": {"text_cfg": {**CONFIG["text_cfg"], "proj_type": "linear", "proj_bias": True}},
}


@dataclass(frozen=True, slots=True)
class Case:
    towers: Towers
    states: States
    images: Tensor
    tokens: Tensor
    projection: Projection


def case(
    kind: str, trainable: str, *, rank: int = 2, micro: int = 3, biases: bool = True, device: torch.device | None = None
) -> Case:
    """Five pairs in micro-batches, in float64."""
    torch.manual_seed(0)
    network = open_clip.CLIP(**(copy.deepcopy(CONFIG) | CHANGES[kind])).double().eval()
    with torch.no_grad():
        # Away from the initial point, where biases are zero and embeddings of all samples nearly equal.
        for parameter in network.parameters():
            if parameter.ndim:
                parameter += 0.05 * torch.randn_like(parameter)
    tokenize = open_clip.SimpleTokenizer(context_length=8)
    loaded = LoadedModel(network.requires_grad_(False), lambda image: image, tokenize, "0")
    towers = Towers(loaded, trainable, torch.device("cpu"), biases=biases)
    size = CHANGES[kind].get("vision_cfg", CONFIG["vision_cfg"])["image_size"]
    images = torch.randn(len(CAPTIONS), 3, size, size, dtype=torch.float64)
    states = [
        (towers.image_stem(images[i : i + micro]), towers.text_stem(CAPTIONS[i : i + micro]))
        for i in range(0, len(CAPTIONS), micro)
    ]
    shapes = {name: tuple(p.shape) for name, p in towers.parameters.items()}
    projection = logra.build(shapes, rank, 10**6, 0, torch.device("cpu"), torch.float64)
    return Case(towers, states, images, tokenize(CAPTIONS), projection)


def role_values(s_BB: Tensor, role: Role) -> Tensor:
    if role == "removal":
        return contrastive.positive(s_BB) + contrastive.negative_exact(s_BB)
    return getattr(contrastive, role)(s_BB)


def autograd(problem: Case, captions_B: Tensor | None = None) -> dict[Role, Tensor]:
    """Projected gradients of the roles, sample by sample, of the whole model as open_clip runs it."""
    values = {name: p.clone().requires_grad_() for name, p in problem.towers.parameters.items()}
    model: Any = problem.towers.loaded.model
    u, v, scale = functional_call(model, values, (problem.images, problem.tokens))
    s_BB = contrastive.logits(u, v, scale)
    s_BB = s_BB if captions_B is None else contrastive.mask_equal(s_BB, captions_B)
    found = {}
    for role in ROLES:
        rows = []
        for value in role_values(s_BB, role):
            gradients = torch.autograd.grad(value, list(values.values()), retain_graph=True)
            rows.append(problem.projection.project(dict(zip(values, gradients, strict=True))))
        found[role] = torch.stack(rows)
    return found
