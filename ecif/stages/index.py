"""The index of a shard: projected gradients of every scored pair, in half precision, for queries without the model.

A safetensors file of `positive` and `negative`, (n, K) float16, the means over the segmentations of the projected
gradients of Pos_n and of the negative role; `scale`, (n, 2) float32, by which the rows of each are multiplied; and
`row`, (n,) int64, the pair's place in the tar. Gradients span many decades, more than float16 has, but the numbers of
one pair do not: with its largest entry at 1 a row keeps three digits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor


def pack_index(gradients: Mapping[str, Tensor], rows: np.ndarray, places: np.ndarray) -> bytes:
    """The file.

    Args:
        gradients: "positive" and "negative", (N, K) each; none where no pair was scored.
        rows: of these, the ones to keep. places: of each in the tar.
    """
    picked = torch.from_numpy(rows)
    tensors: dict[str, Tensor] = {"row": torch.from_numpy(places)}
    scales = []
    for role in ("positive", "negative"):
        part_NK = gradients[role][picked] if gradients else torch.zeros(0, 0)
        largest_N1 = part_NK.abs().amax(1, keepdim=True) if part_NK.numel() else part_NK.new_zeros(len(part_NK), 1)
        safe_N1 = torch.where(largest_N1 > 0, largest_N1, torch.ones_like(largest_N1))
        tensors[role] = (part_NK / safe_N1).half()
        scales.append(safe_N1.float())
    tensors["scale"] = torch.cat(scales, 1)
    return save({name: part.contiguous() for name, part in tensors.items()})
