"""What both exact paths need of the towers: embeddings of a batch in micro-batches, and which tower a name is in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ecif import contrastive
from ecif.towers import Towers
from ecif.towers.cut import State

# (image state, text state) of each micro-batch, in the order of the samples.
States = Sequence[tuple[State, State]]
Side = Literal["image", "text"]
SIDES: tuple[Side, ...] = ("image", "text")


def side_of(name: str) -> Side:
    """The tower of a parameter; open_clip keeps the image tower under `visual`, all else is the text tower's."""
    return "image" if name.startswith("visual.") else "text"


def competing(s_BB: Tensor, captions_B: Tensor | None) -> Tensor:
    """The logits of the loss: with captions, equal ones out of each other's softmax."""
    return s_BB if captions_B is None else contrastive.mask_equal(s_BB, captions_B)


def embed(towers: Towers, states: States) -> tuple[Tensor, Tensor]:
    """U, V of all samples, (B, D) each, without a graph."""
    with torch.no_grad():
        parts = [towers.embed(towers.parameters, image, text) for image, text in states]
    return torch.cat([u for u, _ in parts]), torch.cat([v for _, v in parts])
