"""Damped curvature in the projected space: H^-1 v and H^(-1/2) v for each structure.

All solvers take one vector (K,) or rows (n, K). Damping is delta itself, or a multiple of the mean eigenvalue of
what is damped: of the whole for `joint` and `diagonal`, of each block for `layer` (LoGra's convention).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ecif.curvature.moments import Structure
from ecif.logra import Projection


class Curvature(Protocol):
    """A symmetric positive definite H on projected vectors."""

    @property
    def delta(self) -> float:
        """Damping; the smallest one where blocks differ."""

    @property
    def mean_eigenvalue(self) -> float:
        """Of the undamped curvature, before truncation."""

    @property
    def rank(self) -> int:
        """Eigenpairs kept."""

    @property
    def effective_dimension(self) -> float:
        """sum e / (e + delta): how many directions the data, not the damping, decides."""

    def solve(self, vectors: Tensor) -> Tensor:
        """H^-1 v."""

    def solve_root(self, vectors: Tensor) -> Tensor:
        """H^(-1/2) v: turns standard normal v into samples of covariance H^-1."""

    def complement(self, projection: Projection) -> dict[str, float]:
        """Damping by parameter: what H is taken for outside the projection."""

    def tensors(self) -> dict[str, Tensor]:
        """For `load_factor`."""


@dataclass(frozen=True, slots=True)
class Factor:
    """(delta I + Z diag(e) Z^T): low rank and damping.

    Attributes:
        vectors: Z, (K, r), orthonormal columns. values: e, (r,), positive, descending. delta: damping.
        mean_eigenvalue: of the undamped curvature before truncation; what relative damping refers to.
    """

    vectors: Tensor
    values: Tensor
    delta: float
    mean_eigenvalue: float

    @property
    def rank(self) -> int:
        """Eigenpairs kept."""
        return len(self.values)

    @property
    def effective_dimension(self) -> float:
        """sum e / (e + delta): how many directions the data, not the damping, decides."""
        return float((self.values / (self.values + self.delta)).sum())

    def solve(self, vectors: Tensor) -> Tensor:
        """(delta I + Z diag(e) Z^T)^-1 v, by Woodbury."""
        shrink = self.values / (self.values + self.delta)
        return (vectors - ((vectors @ self.vectors) * shrink) @ self.vectors.T) / self.delta

    def solve_root(self, vectors: Tensor) -> Tensor:
        """(delta I + Z diag(e) Z^T)^(-1/2) v."""
        change = (self.values + self.delta) ** -0.5 - self.delta**-0.5
        return vectors * self.delta**-0.5 + ((vectors @ self.vectors) * change) @ self.vectors.T

    def complement(self, projection: Projection) -> dict[str, float]:
        """delta, for every parameter."""
        return dict.fromkeys(projection.parts, self.delta)

    def tensors(self) -> dict[str, Tensor]:
        """vectors, values, and damping (delta, mean eigenvalue)."""
        return {"vectors": self.vectors, "values": self.values, "damping": _numbers(self.delta, self.mean_eigenvalue)}


@dataclass(frozen=True, slots=True)
class Block:
    """Block diagonal: a factor of its own for each parameter, in the projection's order."""

    factors: Mapping[str, Factor]

    @property
    def delta(self) -> float:
        """The smallest damping."""
        return min(factor.delta for factor in self.factors.values())

    @property
    def mean_eigenvalue(self) -> float:
        """Over all blocks."""
        sizes = [len(factor.vectors) for factor in self.factors.values()]
        means = [factor.mean_eigenvalue for factor in self.factors.values()]
        return sum(n * mean for n, mean in zip(sizes, means, strict=True)) / sum(sizes)

    @property
    def rank(self) -> int:
        """Eigenpairs kept in all blocks."""
        return sum(factor.rank for factor in self.factors.values())

    @property
    def effective_dimension(self) -> float:
        """Sum over the blocks."""
        return sum(factor.effective_dimension for factor in self.factors.values())

    def solve(self, vectors: Tensor) -> Tensor:
        """H^-1 v, block by block."""
        return torch.cat([factor.solve(part) for factor, part in self._split(vectors)], -1)

    def solve_root(self, vectors: Tensor) -> Tensor:
        """H^(-1/2) v, block by block."""
        return torch.cat([factor.solve_root(part) for factor, part in self._split(vectors)], -1)

    def complement(self, projection: Projection) -> dict[str, float]:
        """The damping of each parameter's own block."""
        return {name: self.factors[name].delta for name in projection.parts}

    def tensors(self) -> dict[str, Tensor]:
        """Each block's tensors, as "layer/PARAMETER/NAME"."""
        return {
            f"layer/{name}/{part}": tensor
            for name, factor in self.factors.items()
            for part, tensor in factor.tensors().items()
        }

    def _split(self, vectors: Tensor) -> list[tuple[Factor, Tensor]]:
        sizes = [len(factor.vectors) for factor in self.factors.values()]
        return list(zip(self.factors.values(), vectors.split(sizes, -1), strict=True))


@dataclass(frozen=True, slots=True)
class Diagonal:
    """diag(e) + delta I: EK-FAC in a rotated basis, and, with e = 0, the identity.

    Attributes:
        values: e, (K,), not negative.
    """

    values: Tensor
    delta: float
    mean_eigenvalue: float

    @property
    def rank(self) -> int:
        """Numbers that are not zero."""
        return int((self.values > 0).sum())

    @property
    def effective_dimension(self) -> float:
        """sum e / (e + delta)."""
        return float((self.values / (self.values + self.delta)).sum())

    def solve(self, vectors: Tensor) -> Tensor:
        """v / (e + delta)."""
        return vectors / (self.values + self.delta)

    def solve_root(self, vectors: Tensor) -> Tensor:
        """v / sqrt(e + delta)."""
        return vectors * (self.values + self.delta).rsqrt()

    def complement(self, projection: Projection) -> dict[str, float]:
        """delta, for every parameter."""
        return dict.fromkeys(projection.parts, self.delta)

    def tensors(self) -> dict[str, Tensor]:
        """diagonal, and damping (delta, mean eigenvalue)."""
        return {"diagonal": self.values, "damping": _numbers(self.delta, self.mean_eigenvalue)}


def factorise(curvature_KK: Tensor, rank: int, damping: str) -> Factor:
    """Keep the `rank` largest eigenpairs of a summed Gram matrix.

    Args:
        curvature_KK: symmetric, positive semi-definite, already scaled by N / N_fit.
        damping: delta itself, or a multiple of the mean eigenvalue such as '0.1x'.

    Raises:
        ValueError: the matrix is not finite, or is zero while the damping is relative.
    """
    mean = _mean(curvature_KK, curvature_KK.diagonal())
    delta = _delta(damping, mean)
    values, vectors = torch.linalg.eigh(curvature_KK)
    values, vectors = values.flip(0), vectors.flip(1)
    # Below this, eigenvalues are rounding errors of the sum.
    floor = values[0] * len(values) * torch.finfo(values.dtype).eps
    keep = min(rank, int((values > floor).sum()))
    return Factor(vectors[:, :keep].contiguous(), values[:keep].contiguous(), delta, mean)


def identity(size: int, pairs: int, damping: str, device: torch.device) -> Diagonal:
    """H = delta I. Relative damping counts in units of 1 for each of the corpus' `pairs`."""
    zeros = torch.zeros(size, dtype=torch.float64, device=device)
    return Diagonal(zeros, _delta(damping, float(pairs)), 0.0)


def from_moments(moments: Mapping[str, Tensor], structure: Structure, rank: int, damping: str) -> Curvature:
    """The solver for summed second moments, already scaled by N / N_fit.

    Args:
        rank: eigenpairs kept, of all (`joint`) or of each block (`layer`); a diagonal is kept whole.

    Raises:
        ValueError: as `factorise`.
    """
    if structure == "joint":
        return factorise(moments["joint"], rank, damping)
    if structure == "layer":
        # Layers that the loss does not reach (biases before a normalisation) have no curvature of their own.
        floor = max(_mean(part, part.diagonal()) for part in moments.values()) * 1e-6
        return Block({name: _layer(part, rank, damping, floor) for name, part in moments.items()})
    values = moments["diagonal"]
    mean = _mean(values, values)
    return Diagonal(values, _delta(damping, mean), mean)


def _layer(block_KK: Tensor, rank: int, damping: str, floor: float) -> Factor:
    mean = float(block_KK.diagonal().mean())
    factor = factorise(block_KK, rank, damping) if mean > floor else None
    if factor is not None:
        return factor
    none = block_KK.new_zeros(len(block_KK), 0)
    return Factor(none, block_KK.new_zeros(0), _delta(damping, floor), mean)


def load_factor(tensors: Mapping[str, Tensor], names: Sequence[str]) -> Curvature:
    """What `tensors` of a solver gave.

    Args:
        names: of the parameters, in the projection's order.

    Raises:
        KeyError: they are not those of a solver.
    """
    if "diagonal" in tensors:
        return Diagonal(tensors["diagonal"], *tensors["damping"].tolist())
    if "vectors" in tensors:
        return Factor(tensors["vectors"], tensors["values"], *tensors["damping"].tolist())
    found = {}
    for name in names:
        vectors, values, damping = (tensors[f"layer/{name}/{part}"] for part in ("vectors", "values", "damping"))
        found[name] = Factor(vectors, values, *damping.tolist())
    return Block(found)


def _mean(matrix: Tensor, diagonal: Tensor) -> float:
    if not torch.isfinite(matrix).all():
        raise ValueError("the curvature has entries that are not finite")
    return float(diagonal.mean())


def _delta(damping: str, mean: float) -> float:
    delta = float(damping.removesuffix("x")) * (mean if damping.endswith("x") else 1.0)
    if not delta > 0:
        raise ValueError("the curvature is zero, so damping relative to it is zero as well; give an absolute --damping")
    return delta


def _numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
