"""Low-rank gradient projection (LoGra, arXiv 2405.13954): few numbers per weight matrix instead of all.

The gradient G (rows x columns) of a matrix becomes P_left G P_right^T, (k_left x k_right), with random
P of orthonormal rows: lifting a projected vector back is then the transpose, and projecting what was lifted
gives it back unchanged. A side no longer than its rank is kept as it is, so small heads are exact. Vectors
(biases, norms) and scalars are matrices of one column; tensors of more axes are flattened behind the first.

For the last projections of the towers the projected per-sample gradients of Pos_n are closed forms, exact
and with the coupling through every embedding of the batch: with c_nm the cotangent of Pos_n at sample m,
g_n = sum_m (P_in h_m) (P_out c_nm)^T is a few matrix products. Multiplying a layer's input by its output
gradient row by row, as hooks do, gives another quantity for a loss that couples the batch.

Shape suffixes: B samples of the batch, D embedding width, K projected numbers of one matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ecif import contrastive


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
        return _as_matrix(self.shape)

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
        sides = [_rows(rank, n, generator) for n in _as_matrix(shape)]
        left, right = (None if side is None else side.to(device, dtype) for side in sides)
        parts[name] = MatrixProjection(tuple(shape), left, right)
    return Projection(parts)


def _as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) < 2:
        return (shape[0] if shape else 1), 1
    return shape[0], int(torch.Size(shape[1:]).numel())


def _size(shape: tuple[int, ...], rank: int) -> int:
    rows, columns = _as_matrix(shape)
    return min(rows, rank) * min(columns, rank)


def _rows(rank: int, n: int, generator: torch.Generator) -> Tensor | None:
    """`rank` orthonormal rows of length n, or None when all n are kept."""
    if n <= rank:
        return None
    gaussian = torch.randn(n, rank, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(gaussian).Q.T.contiguous()


@dataclass(frozen=True, slots=True)
class Head:
    """The last projection of one tower, for the closed forms.

    Attributes:
        weight: z = h W for a bare parameter, (n_in, n_out); z = h W^T for a linear layer, (n_out, n_in).
        is_linear: which of the two. projection: of that weight.
    """

    weight: Tensor
    is_linear: bool
    projection: MatrixProjection

    def sides(self) -> tuple[Tensor | None, Tensor | None]:
        """P_in and P_out."""
        p = self.projection
        return (p.right, p.left) if self.is_linear else (p.left, p.right)


def positive_head_gradients(
    h_image: Tensor, h_text: Tensor, image: Head, text: Head, scale: float
) -> tuple[Tensor, Tensor]:
    """Projected gradients of every Pos_n with respect to the two heads, (B, K_image) and (B, K_text).

    Args:
        h_image, h_text: inputs of the heads, (B, n_in). Biases of linear heads must be in neither.
    """
    norm_i, u_BD = _embed(h_image, image)
    norm_t, v_BD = _embed(h_text, text)
    s_BB = contrastive.logits(u_BD, v_BD, scale)
    p_BB, q_BB = torch.softmax(s_BB, 1), torch.softmax(s_BB, 0)
    return (
        _one_side(h_image, norm_i, u_BD, v_BD, p_BB, q_BB, scale, image),
        _one_side(h_text, norm_t, v_BD, u_BD, q_BB.T, p_BB.T, scale, text),
    )


def _embed(h: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    z_BD = h @ (head.weight.T if head.is_linear else head.weight)
    norm_B1 = z_BD.norm(dim=1, keepdim=True)
    return norm_B1, z_BD / norm_B1


def _one_side(
    h: Tensor, norm_B1: Tensor, u_BD: Tensor, v_BD: Tensor, p_BB: Tensor, q_BB: Tensor, scale: float, head: Head
) -> Tensor:
    """Gradients for the tower of u; p_BB is the softmax over the other tower's samples for each row of u.

    Pos_n reaches u_m by the softmax of column n, with weight a_nm = s (Q_mn - delta_mn) / |z_m|, along v_n; and
    u_n by that of row n, along b_n = s (sum_j P_nj v_j - v_n). The normalisation takes out the part along u.
    """
    p_in, p_out = head.sides()
    x_BI = (h if p_in is None else h @ p_in.T) / norm_B1
    u_BO = u_BD if p_out is None else u_BD @ p_out.T
    v_BO = v_BD if p_out is None else v_BD @ p_out.T
    eye_BB = torch.eye(len(h), dtype=h.dtype, device=h.device)
    a_BB = scale * (q_BB - eye_BB).T
    b_BD = scale * (p_BB @ v_BD - v_BD)
    b_BO = b_BD if p_out is None else b_BD @ p_out.T
    radial_BB = a_BB * (v_BD @ u_BD.T)
    own_BO = b_BO - u_BO * (u_BD * b_BD).sum(1, keepdim=True)
    u_x_BK = (u_BO.unsqueeze(2) * x_BI.unsqueeze(1)).flatten(1)  # (out, in), row-major
    g_BK = _outer(v_BO, a_BB @ x_BI) - radial_BB @ u_x_BK + _outer(own_BO, x_BI)
    if head.is_linear:
        return g_BK
    return g_BK.unflatten(1, (u_BO.shape[1], x_BI.shape[1])).transpose(1, 2).flatten(1)


def _outer(a_BO: Tensor, b_BI: Tensor) -> Tensor:
    return (a_BO.unsqueeze(2) * b_BI.unsqueeze(1)).flatten(1)
