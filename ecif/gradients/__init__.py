"""Projected gradients of what a sample is to its batch, one row per sample, exact and with the coupling.

With a loss that couples the batch, the gradient of sample n's role reaches through every embedding of the batch.
Multiplying a layer's input by its output gradient row by row, as per-sample-gradient libraries do, gives another
quantity: the gradient of the whole batch's loss along one sample's path. Nothing here does that.

    roles     dF_n / dS in closed form for Pos, Neg, NegX and removal = Pos + NegX
    heads     the last projections: closed form
    forward   any parameters: one JVP per projected number
    reverse   any parameters: one pull-back per sample, or per embedding coordinate and sample
    linear    another problem: losses that act on each sample alone, linear layers only
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ecif.gradients.forward import forward_gradients
from ecif.gradients.heads import Head, head_gradients
from ecif.gradients.reverse import reverse_gradients
from ecif.gradients.roles import Role, logit_gradients
from ecif.gradients.towers import States
from ecif.logra import Projection
from ecif.towers import Towers
from ecif.towers.parameters import Tower

__all__ = [
    "Head",
    "Role",
    "States",
    "forward_gradients",
    "head_gradients",
    "logit_gradients",
    "projected_gradients",
    "reverse_gradients",
]


def projected_gradients(
    towers: Towers,
    states: States,
    projection: Projection,
    roles: Sequence[Role],
    *,
    chunk: int = 8,
    captions_B: Tensor | None = None,
) -> dict[Role, Tensor]:
    """Projected gradients of every sample's roles, (B, K) each, by the cheapest exact path.

    Args:
        states: (image state, text state) of each micro-batch of one contrastive batch, in order.
        projection: of all trainable parameters. chunk: tangents or gradients held at once by the general paths.
        captions_B: if given, equal captions do not compete (`contrastive.mask_equal`).

    Raises:
        ValueError: the projection is not one of the towers' trainable parameters.
    """
    if {n: tuple(p.shape) for n, p in towers.parameters.items()} != {n: p.shape for n, p in projection.parts.items()}:
        raise ValueError("the projection was made for other parameters than the towers' trainable ones")
    if towers.trainable == "heads" and towers.image.head_input and towers.text.head_input:
        return _of_heads(towers, states, projection, roles, captions_B)
    costs = path_costs(towers, states, projection, roles)
    path = min(costs, key=lambda name: costs[name])
    if path == "forward":
        return forward_gradients(towers, states, projection, roles, chunk=chunk, captions_B=captions_B)
    return reverse_gradients(towers, states, projection, roles, by=path, chunk=chunk, captions_B=captions_B)


def path_costs(
    towers: Towers, states: States, projection: Projection, roles: Sequence[Role]
) -> dict[Literal["forward", "sample", "coordinate"], float]:
    """About what each exact path costs, in forward passes of the batch; `python -m bench.method speed` measures it."""
    size = sum(len(image[0]) for image, _ in states)
    first, _ = states[0]
    with torch.no_grad():
        width = towers.embed_images(towers.parameters, tuple(part[:1] for part in first)).shape[1]
    # The gradient of a token table is far larger than what a sample's pass touches, and `coordinate` forms B D of them.
    each = 50 if towers.trainable == "all" else 4
    return {"forward": 0.6 * projection.size, "sample": 2 * size * len(roles), "coordinate": each * width}


def _of_heads(
    towers: Towers, states: States, projection: Projection, roles: Sequence[Role], captions_B: Tensor | None
) -> dict[Role, Tensor]:
    h_image = torch.cat([image[0] for image, _ in states])
    h_text = torch.cat([text[0] for _, text in states])
    heads = [_head(towers, projection, tower) for tower in towers.heads]
    slices = projection.slices()
    rows = {}
    for role in roles:
        rows[role] = h_image.new_empty(len(h_image), projection.size)
        parts = head_gradients(h_image, h_text, heads[0], heads[1], towers.scale, role, captions_B)
        for tower, part in zip(towers.heads, parts, strict=True):
            names = [name for name in (tower.head, _bias_name(tower)) if name in slices]
            for name, some in zip(names, part.split([projection.parts[n].size for n in names], 1), strict=True):
                rows[role][:, slices[name]] = some
    return rows


def _head(towers: Towers, projection: Projection, tower: Tower) -> Head:
    # A bias acts whether or not it is trainable.
    bias = dict(towers.loaded.model.named_parameters()).get(_bias_name(tower))
    return Head(
        towers.parameters[tower.head],
        tower.head_is_linear,
        projection.parts[tower.head],
        None if bias is None else bias.detach(),
        projection.parts.get(_bias_name(tower)),
    )


def _bias_name(tower: Tower) -> str:
    return tower.head.removesuffix("weight") + "bias" if tower.head_is_linear else ""
