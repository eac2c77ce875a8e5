"""Projected per-sample gradients by reverse mode, through cotangents of the embeddings.

The gradient of F_n is sum_m J_m^T c_nm with J_m = d u_m / d theta and c_nm the cotangent of sample n at the embedding
of sample m: every sample reaches through all of the batch. Three ways to sum, costs in forward passes of the batch (a
pull-back is worth about two):

    by sample       B pull-backs for each role, of all embeddings at once             2 B x roles
    by coordinate   J_m itself: D pull-backs of each sample alone, projected; then    3 to 4 D
                    one matrix product with the cotangents, whatever the roles        (D x B projected gradients)
    hardest = r     one pull-back of r + 1 samples for each n: its own and the r      3 (r + 1) x roles
                    whose cotangents are longest; the others are dropped: NOT exact

The first two are exact. The second wins where the batch is several times as large as the embedding is wide. It forms
and projects B D gradients instead of B: for a rank of k and T tokens that adds a part of k / 2T for matrices that act
on every token, but far more than a pass for a token table, of which a sample uses a few rows.

Gradients are projected as they come. Held at once are `chunk` of them, each as large as the tower's parameters, with as
many cotangents of a micro-batch's activations; the second way, with a sample in the place of a micro-batch, takes more
of them at a time as long as they stay within GRADIENTS_HELD numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.func import vjp, vmap

from ecif import contrastive
from ecif.gradients.roles import Role, Terms, cotangents, directional, terms
from ecif.gradients.towers import SIDES, Side, States, competing, embed, side_of
from ecif.logra import MatrixProjection, Projection
from ecif.towers import SCALE, Towers, differentiable_attention
from ecif.towers.cut import State

Way = Literal["sample", "coordinate"]
GRADIENTS_HELD = 2**26


def reverse_gradients(
    towers: Towers,
    states: States,
    projection: Projection,
    roles: Sequence[Role],
    *,
    by: Way = "sample",
    hardest: int | None = None,
    chunk: int = 8,
    captions_B: Tensor | None = None,
) -> dict[Role, Tensor]:
    """Projected gradients of every sample's roles, (B, K) each, for any parameters.

    Args:
        states: (image state, text state) of each micro-batch. by: which of the exact ways, see above.
        hardest: keep of the other samples only so many: an approximation. chunk: cotangents pulled back at once.
        captions_B: if given, equal captions do not compete (`contrastive.mask_equal`).
    """
    u_BD, v_BD = embed(towers, states)
    s_BB = competing(contrastive.logits(u_BD, v_BD, towers.scale), captions_B)
    found = {role: terms(s_BB, role) for role in roles}
    rows = {role: u_BD.new_zeros(len(u_BD), projection.size) for role in roles}
    slices = projection.slices()
    if SCALE in slices:
        for role in roles:
            rows[role][:, slices[SCALE]] = directional(found[role], s_BB).unsqueeze(1).to(u_BD)
    for side in SIDES:
        tower = _Tower.of(towers, projection, side)
        if not tower.parts:
            continue
        if side == "image":
            batch = _Batch([image for image, _ in states], found, v_BD, towers.scale)
        else:
            flipped = {role: tuple(term.transposed() for term in some) for role, some in found.items()}
            batch = _Batch([text for _, text in states], flipped, u_BD, towers.scale)
        columns = torch.cat([torch.arange(slices[n].start, slices[n].stop) for n in tower.parts]).to(u_BD.device)
        with differentiable_attention():
            if hardest is not None:
                parts = _of_the_hardest(tower, batch, hardest)
            elif by == "sample":
                parts = _by_sample(tower, batch, chunk)
            else:
                parts = _by_coordinate(tower, batch, chunk)
        for role in roles:
            rows[role][:, columns] = parts[role]
    return rows


@dataclass(frozen=True, slots=True)
class _Tower:
    """One tower as a function of its own trainable parameters, and their projections."""

    embed: Callable[[Mapping[str, Tensor], State], Tensor]
    parameters: dict[str, Tensor]
    parts: dict[str, MatrixProjection]

    @classmethod
    def of(cls, towers: Towers, projection: Projection, side: Side) -> _Tower:
        parts = {n: part for n, part in projection.parts.items() if n != SCALE and side_of(n) == side}
        run = towers.embed_images if side == "image" else towers.embed_texts
        return cls(run, {name: towers.parameters[name] for name in parts}, parts)

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts.values())

    def pull_back(self, state: State) -> Callable[[Tensor], Tensor]:
        """The map from cotangents of the embeddings, (samples, D), to the projected gradient, (K,)."""
        _, pull, *_ = vjp(lambda p: self.embed(p, state), self.parameters)

        def projected(c: Tensor) -> Tensor:
            (gradient,) = pull(c)
            return torch.cat([part.project(gradient[name]) for name, part in self.parts.items()])

        return projected


@dataclass(frozen=True, slots=True)
class _Batch:
    """States of one tower by micro-batch, and what the roles of all samples send to its embeddings."""

    states: list[State]
    sent: dict[Role, Terms]
    other_BD: Tensor
    scale: float

    @property
    def everyone(self) -> Tensor:
        return torch.arange(len(self.other_BD), device=self.other_BD.device)

    def micro_batches(self) -> Iterator[tuple[State, Tensor]]:
        """Each State with the numbers of its samples."""
        yield from zip(self.states, self.everyone.split([len(state[0]) for state in self.states]), strict=True)

    def cotangents(self, role: Role, rows_M: Tensor, members_J: Tensor) -> Tensor:
        """(M, J, D)."""
        return cotangents(self.sent[role], self.other_BD, self.scale, rows_M, members_J)

    def zeros(self, size: int) -> dict[Role, Tensor]:
        """A row of `size` numbers for every sample and role."""
        return {role: self.other_BD.new_zeros(len(self.other_BD), size) for role in self.sent}


def _by_sample(tower: _Tower, batch: _Batch, chunk: int) -> dict[Role, Tensor]:
    total = batch.zeros(tower.size)
    for state, members_J in batch.micro_batches():
        pull = tower.pull_back(state)
        for role, rows in total.items():
            for rows_M in batch.everyone.split(chunk):
                rows[rows_M] += vmap(pull)(batch.cotangents(role, rows_M, members_J))
    return total


def _by_coordinate(tower: _Tower, batch: _Batch, chunk: int) -> dict[Role, Tensor]:
    total = batch.zeros(tower.size)
    eye_DD = torch.eye(batch.other_BD.shape[1]).to(batch.other_BD)
    numbers = sum(p.numel() for p in tower.parameters.values())
    for state, members_J in batch.micro_batches():
        at_once = max(chunk, min(chunk * len(members_J), GRADIENTS_HELD // numbers))
        for j, member in enumerate(members_J.split(1)):
            pull = tower.pull_back(tuple(part[j : j + 1] for part in state))
            jacobian_DK = torch.cat([vmap(pull)(some.unsqueeze(1)) for some in eye_DD.split(at_once)])
            for role, rows in total.items():
                rows += batch.cotangents(role, batch.everyone, member)[:, 0] @ jacobian_DK
    return total


def _of_the_hardest(tower: _Tower, batch: _Batch, hardest: int) -> dict[Role, Tensor]:
    total = batch.zeros(tower.size)
    state = tuple(torch.cat(parts) for parts in zip(*batch.states, strict=True))
    keep = min(hardest + 1, len(batch.everyone))
    for role, rows in total.items():
        for n, row in zip(batch.everyone.split(1), rows, strict=True):
            (c_BD,) = batch.cotangents(role, n, batch.everyone)
            length_B = c_BD.norm(dim=1)
            length_B[n] = torch.inf
            members = length_B.topk(keep).indices
            row += tower.pull_back(tuple(part[members] for part in state))(c_BD[members])
    return total
