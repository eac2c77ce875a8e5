"""Which samples compete in which batch: decided once, inside one shard, from the samples' keys alone.

The order of a shard in segmentation k is the order of blake2b(key; seed, k): no random generator whose
stream could change with a library's version, and nothing that depends on which shards are handled
together. A shard is cut into ceil(n / B) batches whose sizes differ by at most one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Batches of one shard: `batches[b][p]` is the row (0..n-1) at position p of batch b."""

    batches: tuple[np.ndarray, ...]

    def places(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Batch number, position and batch size of each of the n rows, uint32."""
        batch, position, size = (np.zeros(n, np.uint32) for _ in range(3))
        for number, rows in enumerate(self.batches):
            batch[rows], position[rows], size[rows] = number, np.arange(len(rows)), len(rows)
        return batch, position, size


def segment(keys: Sequence[str], batch_size: int, seed: int, k: int) -> Segmentation:
    """Cut n rows with these keys into balanced batches of at most `batch_size`: segmentation number k.

    An empty shard gives no batches; fewer rows than a batch give one small batch, which the caller judges.
    """
    if not keys:
        return Segmentation(())
    salt = f"{seed}:{k}".encode()
    hashes = [
        hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16, key=salt).digest() for key in keys
    ]
    order = np.array(sorted(range(len(keys)), key=lambda row: (hashes[row], row)))
    count = -(-len(keys) // batch_size)
    return Segmentation(tuple(np.array_split(order, count)))
