"""Nearest neighbours by cosine similarity, by exact search in chunks of rows.

A shard of 10,000 pairs has a similarity matrix of 400 MB; of a chunk of rows it has 1,024 x 10,000 numbers (41 MB) at a
time. Exact search costs N x M x D multiplications, for such a shard less than embedding it.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1024


def nearest(query_ND: Tensor, table_MD: Tensor, k: int, *, exclude_self: bool, chunk: int = CHUNK) -> Tensor:
    """Rows of `table_MD` with the largest inner product with each query, nearest first, (N, k').

    Args:
        query_ND, table_MD: of unit norm. k: neighbours; k' is smaller where the table has no more.
        exclude_self: the table is the query itself, and row n is no neighbour of n.
    """
    k = min(k, len(table_MD) - int(exclude_self))
    found = []
    for start in range(0, len(query_ND), chunk):
        similarity = query_ND[start : start + chunk] @ table_MD.T
        if exclude_self:
            rows = torch.arange(len(similarity), device=similarity.device)
            similarity[rows, start + rows] = -torch.inf
        found.append(similarity.topk(k, dim=1).indices)
    return torch.cat(found) if found else torch.zeros(0, k, dtype=torch.int64, device=query_ND.device)
