"""Neighbours and what detectors make of them, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ecif.detectors import deep_knn, lemon
from ecif.detectors.neighbours import nearest
from ecif.detectors.views import ShardView

K = 30


def points(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, 4, generator=generator, dtype=torch.float64), dim=1)


def brute(queries: Tensor, table: Tensor, k: int, alone: bool) -> list[list[int]]:
    found = []
    for n, query in enumerate(queries):
        order = sorted(range(len(table)), key=lambda j: -float(query @ table[j]))
        found.append([j for j in order if not (alone and j == n)][:k])
    return found


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("alone", [True, False])
def test_nearest_in_chunks(alone: bool, chunk: int) -> None:
    queries = points(20, 0)
    table = queries if alone else points(15, 1)
    assert nearest(queries, table, 4, exclude_self=alone, chunk=chunk).tolist() == brute(queries, table, 4, alone)


def test_nearest_takes_what_there_is() -> None:
    assert nearest(points(3, 0), points(3, 0), 9, exclude_self=True).shape == (3, 2)
    assert nearest(points(1, 0), points(1, 0), 9, exclude_self=True).shape == (1, 0)
    assert nearest(points(0, 0), points(5, 0), 2, exclude_self=False).shape == (0, 2)


def views() -> list[ShardView]:
    """More pairs than neighbours, fewer, and a reference set."""
    return [
        ShardView(points(40, 0), points(40, 1)),
        ShardView(points(8, 0), points(8, 1)),
        ShardView(points(8, 0), points(8, 1), reference=(points(35, 2), points(35, 3))),
    ]


def distance(a: Tensor, b: Tensor) -> float:
    return 1 - sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("view", views())
def test_deep_knn(view: ShardView) -> None:
    u, v = view.reference or (view.u_ND, view.v_ND)
    found = deep_knn.compute(view)
    for n, rows in enumerate(brute(view.u_ND, u, K, view.reference is None)):
        agreement = [1 - distance(view.v_ND[n], v[j]) for j in rows]
        assert float(found[n]) == pytest.approx(sum(agreement) / len(agreement))


@pytest.mark.parametrize("view", views())
def test_lemon(view: ShardView) -> None:
    u, v = view.reference or (view.u_ND, view.v_ND)
    alone = view.reference is None
    found = lemon.compute(view)
    images, captions = brute(view.u_ND, u, K, alone), brute(view.v_ND, v, K, alone)
    for n in range(len(view.u_ND)):
        own_u, own_v = view.u_ND[n], view.v_ND[n]
        s_n = s_m = 0.0
        for j in images[n]:
            weight = math.exp(-0.1 * distance(own_u, u[j]) - 5 * distance(u[j], v[j]))
            s_n += distance(own_v, v[j]) * weight / len(images[n])
        for j in captions[n]:
            weight = math.exp(-0.1 * distance(own_v, v[j]) - 5 * distance(u[j], v[j]))
            s_m += distance(own_u, u[j]) * weight / len(captions[n])
        assert float(found[n]) == pytest.approx(distance(own_u, own_v) + 5 * s_n + 5 * s_m)


def test_a_pair_alone_in_its_shard() -> None:
    view = ShardView(points(1, 0), points(1, 1))
    assert deep_knn.compute(view).isnan().all()
    assert float(lemon.compute(view)[0]) == pytest.approx(distance(view.u_ND[0], view.v_ND[0]))
