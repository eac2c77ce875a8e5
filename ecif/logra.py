"""Low-rank gradient projection (LoGra, arXiv 2405.13954): few numbers per weight matrix instead of all.

The gradient G (rows x columns) of a matrix becomes P_left G P_right^T, (k_left x k_right), with P of orthonormal
rows, random or leading eigenvectors of the gradients' sides (PCA): lifting a projected vector back is then the
transpose, and projecting what was lifted gives it back unchanged. A side no longer than its rank is kept as it
is, so small heads are exact. Vectors (biases, norms) and scalars are matrices of one column; tensors of more axes
are flattened behind the first.

Shape suffix: K projected numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class MatrixProjection:
    """Projection of one parameter; None stands for the identity.

    Attributes:
        shape: of the parameter. left: (k_left, rows). right: (k_right, columns).
    """

    shape: tuple[int, ...]
    left: Tensor | None
    right: Tensor | None

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of the parameter seen as a matrix."""
        return as_matrix(self.shape)

    @property
    def ranks(self) -> tuple[int, int]:
        """k_left, k_right."""
        rows, columns = self.matrix
        return (
            rows if self.left is None else self.left.shape[0],
            columns if self.right is None else self.right.shape[0],
        )

    @property
    def size(self) -> int:
        """Projected numbers, k_left x k_right."""
        left, right = self.ranks
        return left * right

    def project(self, gradient: Tensor) -> Tensor:
        """Gradient of the parameter -> (K,)."""
        g = gradient.reshape(self.matrix)
        g = g if self.left is None else self.left @ g
        g = g if self.right is None else g @ self.right.T
        return g.reshape(-1)

    def lift(self, vector_K: Tensor) -> Tensor:
        """(K,) -> a tensor of the parameter's shape: the transpose of `project`."""
        g = vector_K.reshape(self.ranks)
        g = g if self.left is None else self.left.T @ g
        g = g if self.right is None else g @ self.right
        return g.reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Projection:
    """Projection of all trainable parameters, laid end to end in the order of `parts`."""

    parts: Mapping[str, MatrixProjection]

    @property
    def size(self) -> int:
        """Projected numbers in all."""
        return sum(part.size for part in self.parts.values())

    def project(self, gradient: Mapping[str, Tensor]) -> Tensor:
        """Gradient by parameter name -> (size,)."""
        return torch.cat([part.project(gradient[name]) for name, part in self.parts.items()])

    def lift(self, vector: Tensor) -> dict[str, Tensor]:
        """(size,) -> gradient-like tensors by parameter name."""
        pieces = vector.split([part.size for part in self.parts.values()])
        return {name: part.lift(piece) for (name, part), piece in zip(self.parts.items(), pieces, strict=True)}

    def tensors(self) -> dict[str, Tensor]:
        """What is not the identity, by "parameter/left" and "parameter/right", for `load_projection`."""
        sides = {f"{n}/{k}": rows for n, p in self.parts.items() for k, rows in (("left", p.left), ("right", p.right))}
        return {name: rows for name, rows in sides.items() if rows is not None}

    def slices(self) -> dict[str, slice]:
        """Where each parameter's numbers lie in the projected vector."""
        ends = torch.tensor([0, *(part.size for part in self.parts.values())]).cumsum(0).tolist()
        return {name: slice(a, b) for name, (a, b) in zip(self.parts, pairwise(ends), strict=True)}


def build(
    shapes: Mapping[str, tuple[int, ...]], rank: int, budget: int, seed: int, device: torch.device, dtype: torch.dtype
) -> Projection:
    """Random projections of the given rank, lowered for all matrices alike until `budget` numbers suffice.

    Args:
        shapes: of the trainable parameters. rank: rows of P at most. budget: projected numbers at most, as
            far as rank 1 allows.
    """
    while rank > 1 and sum(_size(shape, rank) for shape in shapes.values()) > budget:
        rank -= 1
    parts = {}
    for number, (name, shape) in enumerate(shapes.items()):
        generator = torch.Generator().manual_seed((seed << 20) + number)
        sides = [_rows(rank, n, generator) for n in as_matrix(shape)]
        left, right = (None if side is None else side.to(device, dtype) for side in sides)
        parts[name] = MatrixProjection(tuple(shape), left, right)
    return Projection(parts)


def build_pca(
    shapes: Mapping[str, tuple[int, ...]],
    sides: Mapping[str, Tensor],
    rank: int,
    budget: int,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    whole: bool = False,
) -> Projection:
    """Projections onto the leading eigenvectors of the gradients' two sides (`curvature.sides`).

    Args:
        sides: sums of G G^T by "parameter/left" and of G^T G by "parameter/right"; a side that is not there gets
            random rows, or is kept if it is short. rank, budget: as in `build`.
        whole: keep every eigenvector, whatever the budget: a rotation, in which EK-FAC's diagonal is taken.
    """
    while not whole and rank > 1 and sum(_size(shape, rank) for shape in shapes.values()) > budget:
        rank -= 1
    parts = {}
    for number, (name, shape) in enumerate(shapes.items()):
        generator = torch.Generator().manual_seed((seed << 20) + number)
        rows = []
        for side, n in zip(("left", "right"), as_matrix(shape), strict=True):
            random = _rows(rank, n, generator)
            covariance = sides.get(f"{name}/{side}")
            found = random
            if covariance is not None and (whole or n > rank):
                found = torch.linalg.eigh(covariance).eigenvectors.flip(1).T[: n if whole else rank]
            rows.append(None if found is None else found.to(device, dtype).contiguous())
        parts[name] = MatrixProjection(tuple(shape), rows[0], rows[1])
    return Projection(parts)


def load_projection(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], device: torch.device, dtype: torch.dtype
) -> Projection:
    """The projection that `Projection.tensors` came from, for parameters of these shapes.

    Raises:
        ValueError: it was made for other parameters.
    """

    def side(name: str, kind: str, n: int) -> Tensor | None:
        rows = tensors.get(f"{name}/{kind}")
        if rows is not None and rows.shape[1] != n:
            raise ValueError(f"the projection of {name} is for {rows.shape[1]} instead of {n} {kind} coordinates")
        return None if rows is None else rows.to(device, dtype)

    if other := {key.rpartition("/")[0] for key in tensors} - set(shapes):
        raise ValueError(f"the projection is for other parameters, such as {min(other)}")
    parts = {}
    for name, shape in shapes.items():
        rows, columns = as_matrix(shape)
        parts[name] = MatrixProjection(tuple(shape), side(name, "left", rows), side(name, "right", columns))
    return Projection(parts)


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a parameter seen as a matrix: vectors have one column, further axes are flattened."""
    if len(shape) < 2:
        return (shape[0] if shape else 1), 1
    return shape[0], int(torch.Size(shape[1:]).numel())


def _size(shape: tuple[int, ...], rank: int) -> int:
    """Projected numbers of one parameter."""
    rows, columns = as_matrix(shape)
    return min(rows, rank) * min(columns, rank)


def _rows(rank: int, n: int, generator: torch.Generator) -> Tensor | None:
    """`rank` orthonormal rows of length n, or None when all n are kept."""
    if n <= rank:
        return None
    gaussian = torch.randn(n, rank, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(gaussian).Q.T.contiguous()
