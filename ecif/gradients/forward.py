"""Projected per-sample gradients by forward mode: one derivative of the embeddings per projected number.

Coordinate i of the projected gradient of F_n is the derivative of F_n along the lifted basis vector of i. A JVP along
it gives dU (or dV), hence dS for the whole batch, and <G_n, dS> is that coordinate for every sample and role at once.
Nothing rests on hooks or on the kind of layer: bare parameters, convolutions, token tables and norms are all alike.

A basis vector moves one parameter, so the other tower is not run and, within the tower, nothing before that parameter
has a derivative. The directions of one parameter share one primal pass per chunk.

Cost for K projected numbers: about K / 2 to K forward passes of the batch (both towers), the primal of a chunk among
them, and 2 K B^2 D for the logits, whatever the number of roles. It is the cheapest path where K is small against the
batch and the embedding; `reverse` is where it is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.func import jvp, vmap

from ecif import contrastive
from ecif.gradients.roles import Role, directional, terms
from ecif.gradients.towers import States, competing, embed, side_of
from ecif.logra import MatrixProjection, Projection
from ecif.towers import SCALE, Towers, differentiable_attention


def forward_gradients(
    towers: Towers,
    states: States,
    projection: Projection,
    roles: Sequence[Role],
    *,
    chunk: int = 16,
    captions_B: Tensor | None = None,
) -> dict[Role, Tensor]:
    """Projected gradients of every sample's roles, (B, K) each, exact for any parameters.

    Args:
        states: (image state, text state) of each micro-batch. chunk: directions that share a primal pass; the
            memory is that many tangents of one tower's activations for one micro-batch.
        captions_B: if given, equal captions do not compete (`contrastive.mask_equal`).
    """
    u_BD, v_BD = embed(towers, states)
    s_BB = competing(contrastive.logits(u_BD, v_BD, towers.scale), captions_B)
    found = {role: terms(s_BB, role) for role in roles}
    rows = {role: u_BD.new_zeros(len(u_BD), projection.size) for role in roles}
    for name, columns in projection.slices().items():
        for i, ds_BB in zip(
            range(columns.start, columns.stop),
            _logits_derivatives(towers, states, name, projection.parts[name], u_BD, v_BD, s_BB, chunk),
            strict=True,
        ):
            for role in roles:
                rows[role][:, i] = directional(found[role], ds_BB)
    return rows


def _logits_derivatives(
    towers: Towers,
    states: States,
    name: str,
    part: MatrixProjection,
    u_BD: Tensor,
    v_BD: Tensor,
    s_BB: Tensor,
    chunk: int,
) -> Iterator[Tensor]:
    """dS along each basis vector of one parameter, lifted."""
    if name == SCALE:
        yield s_BB  # s = exp(logit_scale)
        return
    side = side_of(name)
    basis_KK = torch.eye(part.size, dtype=u_BD.dtype, device=u_BD.device)
    for some_cK in basis_KK.split(chunk):
        lifted = vmap(part.lift)(some_cK)
        pieces = [_push(towers, name, image if side == "image" else text, lifted) for image, text in states]
        for d_BD in torch.cat(pieces, 1):
            if side == "image":
                yield contrastive.logits(d_BD, v_BD, towers.scale)
            else:
                yield contrastive.logits(u_BD, d_BD, towers.scale)


def _push(towers: Towers, name: str, state: tuple[Tensor, ...], directions: Tensor) -> Tensor:
    """Derivatives of one tower's embeddings along changes of one parameter, (c, B, D)."""
    tower = towers.embed_images if side_of(name) == "image" else towers.embed_texts
    value = towers.parameters[name]

    def along(direction: Tensor) -> Tensor:
        _, d_BD, *_ = jvp(lambda p: tower({**towers.parameters, name: p}, state), (value,), (direction,))
        return d_BD

    with differentiable_attention(), torch.no_grad():
        return vmap(along)(directions)
