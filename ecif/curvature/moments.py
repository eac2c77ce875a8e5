"""Second moments of projected gradients, in the three structures that a curvature may have.

    joint       the whole (K, K) matrix: what couples two layers is kept
    layer       one (k, k) block per parameter
    diagonal    K numbers; with projections onto the eigenvectors of both sides this is EK-FAC

Each is a sum over rows, so that shards can be added in any grouping; the sum is taken in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from ecif.logra import Projection, as_matrix

# Accumulating in double precision makes the sum independent of how shards were grouped, to the last digits
# that matter.
MOMENT_DTYPE = torch.float64
Structure = Literal["joint", "layer", "diagonal"]
# A side longer than this gets no PCA: its covariance (and the eigenvectors of it) would not fit.
LONGEST_SIDE = 4096


def gram(rows_MK: Tensor) -> Tensor:
    """Sum of outer products of the rows, (K, K), in float64."""
    rows = rows_MK.to(MOMENT_DTYPE)
    return rows.T @ rows


def second_moments(rows_MK: Tensor, projection: Projection, structure: Structure) -> dict[str, Tensor]:
    """What `structure` keeps of the sum of the rows' outer products, by name, in float64.

    Returns:
        {"joint": (K, K)}, or {parameter: (k, k)}, or {"diagonal": (K,)}.
    """
    if structure == "joint":
        return {"joint": gram(rows_MK)}
    if structure == "layer":
        return {name: gram(rows_MK[:, place]) for name, place in projection.slices().items()}
    return {"diagonal": rows_MK.to(MOMENT_DTYPE).square().sum(0)}


def zeros(projection: Projection, structure: Structure, device: torch.device) -> dict[str, Tensor]:
    """The sum over no rows."""
    return second_moments(torch.zeros(0, projection.size, dtype=MOMENT_DTYPE, device=device), projection, structure)


def sides(gradients: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Sums of G G^T and G^T G over gradients, by "parameter/left" and "parameter/right", in float64.

    Their leading eigenvectors are the best Kronecker-structured subspace that one side alone can choose (the
    higher-order SVD of the gradients). For a layer that sees one position per sample these are K-FAC's factors,
    weighted by the norm of the other side. Sides of one element, and of more than 4,096, are left out.
    """
    found: dict[str, Tensor] = {}
    for gradient in gradients:
        for name, part in gradient.items():
            g = part.reshape(as_matrix(tuple(part.shape))).to(MOMENT_DTYPE)
            for side, matrix in (("left", g), ("right", g.T)):
                if 1 < matrix.shape[0] <= LONGEST_SIDE:
                    key = f"{name}/{side}"
                    found[key] = found[key] + matrix @ matrix.T if key in found else matrix @ matrix.T
    return found
