"""Influence relative to a gradient's length: which pairs point at a loss, however strongly they pull on everything.

Pairs with long gradients (odd ones, as a rule) lead every list of influences. With g = grad L_test, the gradients a of
a pair's positive and b of its negative role, d = a + b, and I = [H^-1 a, H^-1 b], (p x 2), the columns of which are
the two parts of the pair's influence function up to their sign:

    IS               g^T H^-1 d
    theta-RelatIF    IS / |H^-1 d|                                  signed (arXiv 2003.11630)
    l-RelatIF        IS / sqrt(d^T H^-1 d)                          signed (arXiv 2003.11630)
    relative-IS      sqrt( g^T I (I^T I)^+ I^T g ) / |g|            in [0, 1], unsigned (ECIF, arXiv 2411.11667)

relative-IS is the cosine between g and the plane that the pair can move the parameters in; where I has one dimension
only, it is |g.a| / (|a| |g|) with a its column that is not zero.

The numerators are derivatives along w = H^-1 g, exact for any parameters. The denominators come in two ways:

    exactly       from projected gradients of every pair and a solver of the curvature
    from probes   r_1 .. r_P, standard normal: derivatives along H^-1 r have the inner products of I as covariance,
                  those along H^(-1/2) r have self-influence as variance, those along r the squared gradient norm

The probes' sample covariance is a Wishart matrix, so bias and standard error of what is made of it are known exactly
(chi-squared with P degrees of freedom, one less where two columns had to be told apart), and depend on P alone. The
estimates below have that bias taken out; the standard error is the share of the value that stands in `error`.

Shape suffixes: N pairs, R losses, K projected numbers, P probes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ecif.curvature import Curvature

FEWEST_PROBES = 4
"""With fewer, the estimate of relative-IS has no variance."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Values and their standard errors, 0 where they are exact; both of one shape."""

    value: Tensor
    error: Tensor


@dataclass(frozen=True, slots=True)
class SquaredNorms:
    """Squared lengths, (N,), exact or (`probes` > 0) as means of that many squared derivatives."""

    squares_N: Tensor
    probes: int = 0

    @property
    def estimate(self) -> Estimate:
        """The squares themselves."""
        share = math.sqrt(2 / self.probes) if self.probes else 0.0
        return Estimate(self.squares_N, self.squares_N * share)

    @property
    def roots(self) -> Estimate:
        """The lengths."""
        if not self.probes:
            return _exact(self.squares_N.sqrt())
        mean = math.exp(math.lgamma((self.probes + 1) / 2) - math.lgamma(self.probes / 2)) * math.sqrt(2 / self.probes)
        value = self.squares_N.sqrt() / mean
        return Estimate(value, value * math.sqrt(1 / mean**2 - 1))

    def divide(self, influence_RN: Tensor) -> Estimate:
        """Influence over length, (R, N); 0 where the length is 0."""
        value = _over(influence_RN.double(), self.squares_N.sqrt())
        if not self.probes:
            return _exact(value)
        mean, share = _inverse_length(self.probes, self.probes)
        return Estimate(value / mean, (value / mean).abs() * share)


@dataclass(frozen=True, slots=True)
class Columns:
    """I^T I of every pair: inner products of the two columns of I, (N,) each, in float64.

    Attributes:
        positive_N, negative_N: squared lengths of H^-1 a and H^-1 b. product_N: their inner product.
        probes: how many these were estimated from; 0 if exact.
        tolerance: columns with a smaller squared sine between them count as one.
    """

    positive_N: Tensor
    negative_N: Tensor
    product_N: Tensor
    probes: int
    tolerance: float

    @classmethod
    def exact(cls, positive_NK: Tensor, negative_NK: Tensor, curvature: Curvature) -> Columns:
        """From the projected gradients a and b of every pair."""
        tolerance = _tolerance(positive_NK)
        x_NK, y_NK = curvature.solve(positive_NK.double()), curvature.solve(negative_NK.double())
        return cls((x_NK * x_NK).sum(1), (y_NK * y_NK).sum(1), (x_NK * y_NK).sum(1), 0, tolerance)

    @classmethod
    def probed(cls, positive_PN: Tensor, negative_PN: Tensor) -> Columns:
        """From derivatives of both roles along H^-1 r of each probe r.

        Raises:
            ValueError: fewer than `FEWEST_PROBES` probes.
        """
        if len(positive_PN) < FEWEST_PROBES:
            raise ValueError(f"relative influence needs {FEWEST_PROBES} probes at least, not {len(positive_PN)}")
        x, y = positive_PN.double(), negative_PN.double()
        squares = (x * x).mean(0), (y * y).mean(0), (x * y).mean(0)
        return cls(*squares, len(positive_PN), _tolerance(positive_PN))

    @property
    def sums(self) -> SquaredNorms:
        """|H^-1 d|^2, d = a + b: how far the parameters move when the pair is removed."""
        # Rounding may leave a sum of opposite columns below zero.
        squares = self.positive_N + self.negative_N + 2 * self.product_N
        return SquaredNorms(squares.clamp(min=0), self.probes)


def theta_relative(positive_RN: Tensor, negative_RN: Tensor, columns: Columns) -> Estimate:
    """theta-RelatIF, (R, N): influence per length of the parameters' move.

    Args:
        positive_RN, negative_RN: g^T H^-1 a and g^T H^-1 b for R losses.
    """
    return columns.sums.divide(positive_RN + negative_RN)


def l_relative(influence_RN: Tensor, self_influence: SquaredNorms) -> Estimate:
    """l-RelatIF, (R, N): influence over the root of the pair's influence on its own loss."""
    return self_influence.divide(influence_RN)


def relative_influence(positive_RN: Tensor, negative_RN: Tensor, columns: Columns, norm_R: Tensor) -> Estimate:
    """relative-IS, (R, N), in [0, 1]; 0 for pairs without gradient and losses without gradient.

    Args:
        norm_R: |g| of each loss, in the whole parameter space.
    """
    p_RN, n_RN, norm_R1 = positive_RN.double(), negative_RN.double(), norm_R.double().unsqueeze(1)
    # The longer column first: what is left of the shorter one beside it keeps its digits.
    swap_N = columns.negative_N > columns.positive_N
    first_RN, second_RN = torch.where(swap_N, n_RN, p_RN), torch.where(swap_N, p_RN, n_RN)
    long_N = torch.where(swap_N, columns.negative_N, columns.positive_N)
    short_N = torch.where(swap_N, columns.positive_N, columns.negative_N)
    slope_N = _over(columns.product_N, long_N)
    rest_N = short_N - slope_N * columns.product_N
    plane_N = rest_N > columns.tolerance * short_N
    along_RN = _over(first_RN.square(), long_N)
    beside_RN = torch.where(plane_N, _over((second_RN - slope_N * first_RN).square(), rest_N), torch.zeros_like(p_RN))
    value_RN = _over((along_RN + beside_RN).sqrt(), norm_R1)
    if not columns.probes:
        return _exact(value_RN.clamp(0, 1))
    plane = _inverse_length(columns.probes, columns.probes - 1)
    line = _inverse_length(columns.probes, columns.probes)
    two_N = plane_N.double()
    mean_N, share_N = (two_N * of_two + (1 - two_N) * of_one for of_two, of_one in zip(plane, line, strict=True))
    value_RN = (value_RN / mean_N).clamp(0, 1)
    return Estimate(value_RN, value_RN * share_N)


def self_influence(positive_NK: Tensor, negative_NK: Tensor, curvature: Curvature) -> SquaredNorms:
    """d^T H^-1 d of every pair, from its projected gradients."""
    d_NK = (positive_NK + negative_NK).double()
    return SquaredNorms((d_NK * curvature.solve(d_NK)).sum(1))


def gradient_squares(rows_NK: Tensor) -> SquaredNorms:
    """|row|^2, from gradients themselves."""
    return SquaredNorms(rows_NK.double().square().sum(1))


def probed_squares(derivatives_PN: Tensor) -> SquaredNorms:
    """Mean of squared derivatives: of d along H^(-1/2) r, self-influence; of a gradient along r, its squared norm.

    Raises:
        ValueError: fewer than `FEWEST_PROBES` probes.
    """
    if len(derivatives_PN) < FEWEST_PROBES:
        raise ValueError(f"squared norms need {FEWEST_PROBES} probes at least, not {len(derivatives_PN)}")
    return SquaredNorms(derivatives_PN.double().square().mean(0), len(derivatives_PN))


def probes(
    shapes: Mapping[str, Sequence[int]], count: int, seed: int, device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """Standard normal vectors by parameter name, in float64, drawn on the CPU: alike on any device."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield {
            name: torch.randn(*shape, generator=generator, dtype=torch.float64).to(device)
            for name, shape in shapes.items()
        }


def _inverse_length(probes: int, freedom: int) -> tuple[float, float]:
    """Mean of 1 / sqrt(X / P) for chi-squared X with so many degrees of freedom, and its relative standard error."""
    mean = math.exp(math.lgamma((freedom - 1) / 2) - math.lgamma(freedom / 2)) * math.sqrt(probes / 2)
    return mean, math.sqrt(probes / (freedom - 2) / mean**2 - 1)


def _tolerance(x: Tensor) -> float:
    return 1e-12 if x.dtype == torch.float64 else 1e-6


def _over(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is."""
    zero = b == 0
    return torch.where(zero, torch.zeros_like(a), a / b.masked_fill(zero, 1))


def _exact(value: Tensor) -> Estimate:
    return Estimate(value, torch.zeros_like(value))
