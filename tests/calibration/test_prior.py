from __future__ import annotations

import numpy as np
import pytest

from ecif.calibration.measure import Array
from ecif.calibration.prior import share_of_mistakes, thinning


def draw(
    seed: int, share: float, distance: float, *, width: float = 1.0, pairs: int = 6_000, planted: int = 800
) -> tuple[Array, Array]:
    """Canaries and real pairs whose mistakes are drawn from the same distribution."""
    random = np.random.default_rng(seed)
    wrong = random.binomial(pairs, share)
    mistakes, right = random.normal(distance, width, wrong), random.normal(size=pairs - wrong)
    return random.normal(distance, width, planted), np.r_[mistakes, right]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.3])
@pytest.mark.parametrize(("distance", "width"), [(1, 1), (2, 1), (3, 1), (2, 1.5)])
def test_the_interval_holds_the_share(share: float, distance: float, width: float) -> None:
    found = [share_of_mistakes(*draw(seed, share, distance, width=width)) for seed in range(12)]
    assert sum(part.low <= share <= part.high for part in found) >= 11


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_where_mistakes_are_apart_the_estimate_is_close(share: float) -> None:
    found = [share_of_mistakes(*draw(seed, share, 3)).value for seed in range(6)]
    assert np.mean(found) == pytest.approx(share, rel=0.15, abs=0.005)


def test_where_nothing_is_apart_the_interval_says_nothing() -> None:
    found = share_of_mistakes(*draw(0, 0.1, 0))
    assert found.low < 0.05
    assert found.high > 0.9


def test_the_upper_end_holds_whatever_right_pairs_look_like() -> None:
    """Heavy tails of right pairs: the share is overcounted, never under the truth."""
    random = np.random.default_rng(0)
    for share in (0.05, 0.2):
        canary = random.logistic(2, 0.55, 800)
        real = np.r_[random.logistic(2, 0.55, int(6_000 * share)), random.logistic(0, 0.55, int(6_000 * (1 - share)))]
        assert share_of_mistakes(canary, real).high >= share


def test_the_ratio_of_densities_is_found() -> None:
    """For Gaussians of width 1, real over canary is share + (1 - share) exp(d^2 / 2 - d s)."""
    canary, real = draw(3, 0.1, 2, pairs=60_000, planted=20_000)
    found = thinning(canary, real, 0.1)
    assert found.b == pytest.approx(-2, abs=0.1)
    assert found.a == pytest.approx(2 + np.log(0.9), abs=0.15)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_scale_of_the_score_does_not_matter(factor: float) -> None:
    canary, real = draw(0, 0.1, 2)
    plain, scaled = share_of_mistakes(canary, real), share_of_mistakes(canary * factor, real * factor)
    assert scaled.value == plain.value
    assert scaled.low == pytest.approx(plain.low)


def test_one_value_for_all_is_no_error() -> None:
    found = share_of_mistakes(np.zeros(30), np.zeros(300))
    assert 0 <= found.low <= found.high <= 1
