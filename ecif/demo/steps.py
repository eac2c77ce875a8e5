"""The steps of a training run: AdamW on open_clip's contrastive loss, for a model and pairs that fit into memory.

Only the rows of the token table that occur take part; the others stay as they were drawn and cost no optimiser step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecif.progress import Progress

LARGEST_SCALE = 100.0  # CLIP's bound on 1 / temperature
WARM_UP = 0.1  # of all steps
WEIGHT_DECAY = 0.1
GRADIENT_NORM = 1.0
NOISE = 0.05  # standard deviation of augmented pixels, in units of the normalised image


@contextmanager
def small_vocabulary(network: Any, tokens: Tensor) -> Iterator[Tensor]:
    """Let the network work on the tokens that occur, renumbered in their order; put the rows back afterwards.

    The end token has the largest number before and after, which is what pooling by argmax looks for.
    """
    table: nn.Embedding = network.token_embedding
    used, numbers = torch.unique(tokens, return_inverse=True)
    small = nn.Embedding(len(used), table.embedding_dim)
    with torch.no_grad():
        small.weight.copy_(table.weight[used])
    network.token_embedding = small
    yield numbers
    network.token_embedding = table
    with torch.no_grad():
        table.weight[used] = small.weight


def fit(
    network: Any,
    images: Tensor,
    tokens: Tensor,
    steps: int,
    batch_size: int,
    lr: float,
    augment: bool,
    progress: Progress,
) -> list[float]:
    """Take so many steps; returns the mean loss of each pass over the pairs. The last pass may be cut short.

    Batches are drawn anew in each pass from torch's global generator; what is left of it behind the last whole batch
    is left out. The network is in eval mode afterwards.

    Args:
        images: (n, 3, H, W), at least a batch. tokens: (n, context). augment: shift batches and add weak noise.
    """
    network.train()
    optimiser = _optimiser(network, lr)
    per_epoch = len(images) // batch_size
    warm = max(1, round(WARM_UP * steps))
    same = torch.arange(batch_size)
    losses = []
    progress.stage("train", steps * batch_size, "pairs")
    for first in range(0, steps, per_epoch):
        order = torch.randperm(len(images))
        total, last = 0.0, min(steps, first + per_epoch)
        for step in range(first, last):
            for group in optimiser.param_groups:
                group["lr"] = lr * _schedule(step, warm, steps)
            rows = order[(step - first) * batch_size : (step - first + 1) * batch_size]
            batch = _shift(images[rows]) if augment else images[rows]
            u_BD = F.normalize(network.encode_image(batch), dim=-1)
            v_BD = F.normalize(network.encode_text(tokens[rows]), dim=-1)
            s_BB = network.logit_scale.exp() * u_BD @ v_BD.T
            loss = (F.cross_entropy(s_BB, same) + F.cross_entropy(s_BB.T, same)) / 2
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
            optimiser.step()
            with torch.no_grad():
                network.logit_scale.clamp_(0, math.log(LARGEST_SCALE))
            total += float(loss.detach())
            progress.advance(batch_size)
        losses.append(total / (last - first))
    progress.end()
    network.eval()
    return losses


def _optimiser(network: nn.Module, lr: float) -> torch.optim.AdamW:
    """AdamW; gains, biases and the logit scale do not decay."""
    matrices = [p for p in network.parameters() if p.ndim >= 2]
    others = [p for p in network.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)


def _schedule(step: int, warm: int, steps: int) -> float:
    """Factor on the learning rate: linear from 1/warm to 1, then half a cosine down to 0."""
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _shift(batch: Tensor) -> Tensor:
    """The batch moved by up to 1/24 of its side, edges repeated, with weak noise; (B, 3, H, W)."""
    most = max(1, round(batch.shape[-1] / 24))
    right, down = (int(torch.randint(0, 2 * most + 1, ())) for _ in range(2))
    padded = F.pad(batch, (most,) * 4, mode="replicate")
    moved = padded[:, :, down : down + batch.shape[2], right : right + batch.shape[3]]
    return moved + NOISE * torch.randn_like(moved)
