"""Detectors that look at the projected gradient of each pair."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sklearn.ensemble import IsolationForest
from torch import Tensor

from ecif.curvature import Factor
from ecif.detectors import gradient_l1, gradient_l2, isolation_forest, outlier_gradient, self_influence
from ecif.detectors.views import ShardView
from tests.detectors.heads import Heads

N, K = 6, 9


def rows(n: int = N, seed: int = 0) -> Tensor:
    return torch.randn(n, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def factor() -> Factor:
    vectors = torch.linalg.qr(rows(K, 1)).Q[:, :4]
    return Factor(vectors, torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64), 0.5, 1.0)


def test_self_influence() -> None:
    d, h = rows(), factor()
    matrix = h.vectors @ torch.diag(h.values) @ h.vectors.T + h.delta * torch.eye(K, dtype=torch.float64)
    found = self_influence.compute(replace(Heads(N).view(), gradients={"removal": d}, curvature=h))
    for n in range(N):
        assert float(found[n]) == pytest.approx(float(d[n] @ torch.linalg.inv(matrix) @ d[n]))
    with pytest.raises(ValueError, match="curvature"):
        self_influence.compute(replace(Heads(N).view(), gradients={"removal": d}))


def test_norms() -> None:
    view = replace(Heads(N).view(), gradients={"positive": rows()})
    for n, row in enumerate(rows().tolist()):
        assert float(gradient_l1.compute(view)[n]) == pytest.approx(sum(abs(x) for x in row))
        assert float(gradient_l2.compute(view)[n]) == pytest.approx(sum(x * x for x in row) ** 0.5)


def spearman(a: Tensor, b: Tensor) -> float:
    ranks = torch.stack([x.argsort().argsort().double() for x in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def test_the_forest_agrees_with_that_of_scikit_learn() -> None:
    points = rows(400)
    points[:20] *= 3
    found = isolation_forest.anomaly(points, seed=0, trees=100)
    reference = IsolationForest(n_estimators=100, max_samples=256, random_state=0).fit(points.numpy())
    expected = torch.from_numpy(-reference.score_samples(points.numpy()))
    assert spearman(found, expected) > 0.9
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)


def test_the_forest_in_one_dimension_by_hand() -> None:
    """Of three points the cut falls into the wide gap with probability 9/10, so the far one is alone at once."""
    points = torch.tensor([[0.0], [1.0], [10.0]], dtype=torch.float64)
    found = isolation_forest.anomaly(points, seed=0, trees=2_000)
    # Path lengths: 1 for the point that the first cut isolates, 2 for the two others, by symmetry of the rest.
    lengths = torch.tensor([0.1 * 1 + 0.9 * 2, 2.0, 0.9 * 1 + 0.1 * 2], dtype=torch.float64)
    mean = 2 * (torch.tensor(2.0, dtype=torch.float64).log() + 0.5772156649) - 4 / 3
    torch.testing.assert_close(found, torch.exp2(-lengths / mean), rtol=0, atol=0.02)


@pytest.mark.parametrize("points", [torch.zeros(5, 3), torch.ones(1, 3), torch.tensor([[1.0, 0.0], [1.0, 2.0]])])
def test_the_forest_of_equal_or_few_points(points: Tensor) -> None:
    found = isolation_forest.anomaly(points, seed=0)
    assert found.shape == (len(points),)
    assert len(set(found.tolist())) == 1


def test_outlier_gradient_is_the_forest_of_the_shard_and_repeats() -> None:
    u = torch.nn.functional.normalize(rows(120), dim=1)
    points = rows(120, 2)
    points[17] += 12
    view = ShardView(u, u, seed=5, gradients={"positive": points})
    found = outlier_gradient.compute(view)
    assert int(found.argmax()) == 17
    assert found.equal(outlier_gradient.compute(view))
    assert not found.equal(outlier_gradient.compute(replace(view, seed=6)))
