"""A transformer of plain linear layers with a next-token loss: what every library of per-sample gradients can take.

Pre-norm blocks, queries, keys and values in layers of their own, no biases, so that the modules and their weights are
the same numbers for everyone. The loss of a sample is the sum of its tokens' cross-entropies: pointwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of model, data and projection.

    Attributes:
        rank: of each side of a weight; its square is the number of projected values per module.
    """

    width: int = 256
    layers: int = 4
    heads: int = 4
    vocabulary: int = 1000
    tokens: int = 64
    samples: int = 64
    batch: int = 16
    rank: int = 16


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        q, k, v = (f(y).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        z: Tensor = x + self.down(F.gelu(self.up(self.between(x))))
        return z


class Plain(nn.Module):
    """Token ids (B, T) -> an object with `logits` (B, T, V), the form of a causal language model."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embed = nn.Embedding(sizes.vocabulary, sizes.width)
        self.place = nn.Parameter(0.02 * torch.randn(sizes.tokens, sizes.width))
        self.blocks = nn.ModuleList(Block(sizes.width, sizes.heads) for _ in range(sizes.layers))
        self.after = nn.LayerNorm(sizes.width)
        self.head = nn.Linear(sizes.width, sizes.vocabulary, bias=False)

    @property
    def device(self) -> torch.device:
        return self.place.device

    @property
    def dtype(self) -> torch.dtype:
        return self.place.dtype

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        x = self.embed(input_ids) + self.place
        for block in self.blocks:
            x = block(x)
        return SimpleNamespace(logits=self.head(self.after(x)))


def build(sizes: Sizes) -> tuple[Plain, Tensor, list[str]]:
    """The model, token ids (samples, T) and the names of the modules whose gradients are wanted."""
    torch.manual_seed(0)
    model = Plain(sizes).eval()
    ids = torch.randint(sizes.vocabulary, (sizes.samples, sizes.tokens))
    return model, ids, [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and name != "head"]


def losses(model: nn.Module, ids: Tensor) -> Tensor:
    """Loss of each sample, (B,)."""
    logits = model(ids).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(ids), -1).sum(1)
