"""What a variant leaves out: as many as any other, the worst first, by the order of a naive sort."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif.effects.population import Population
from ecif.effects.variants import AS_IS, RANDOM, dropped, size
from ecif.errors import UsageError

rows = st.lists(
    st.tuples(st.sampled_from(["a", "b", "é", ""]), st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e-45])),
    min_size=2,
    max_size=30,
)


def _population(content: list[tuple[str, float]]) -> Population:
    pairs = {
        "uid": [uid for uid, _ in content],
        "key": [f"{n % 3}" for n in range(len(content))],
        "shard": ["s"] * len(content),
        "index": range(len(content)),
    }
    return Population(pl.DataFrame(pairs), {"clip_score": np.array([w for _, w in content], np.float32)}, 0)


@given(rows, st.data())
def test_the_worst_go_and_ties_by_uid(content: list[tuple[str, float]], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(content) - 1))
    order = sorted(range(len(content)), key=lambda n: (content[n][1], content[n][0], f"{n % 3}", n))
    found = dropped(_population(content), "clip_score", count, 1)
    assert found.tolist() == sorted(order[:count])


@given(st.integers(2, 50), st.data())
def test_all_leave_out_as_many(n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, n - 1))
    people = _population([(f"{row}", float(row % 4)) for row in range(n)])
    for name in ("clip_score", RANDOM):
        found = dropped(people, name, count, 3).tolist()
        assert len(set(found)) == count
        assert found == sorted(found)
        assert set(found) <= set(range(n))
    assert len(dropped(people, AS_IS, count, 3)) == 0


def test_a_random_subset_is_that_of_its_seed() -> None:
    people = _population([(f"{row}", 0.0) for row in range(100)])
    draws = [dropped(people, RANDOM, 20, seed).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    scores = [dropped(people, "clip_score", 20, seed).tolist() for seed in (1, 2)]
    assert scores[0] == scores[1]


def test_every_pair_is_drawn_as_often_as_any() -> None:
    people = _population([(f"{row}", 0.0) for row in range(10)])
    drawn = np.bincount(np.concatenate([dropped(people, RANDOM, 3, seed) for seed in range(2_000)]), minlength=10)
    # 600 each, standard deviation 20.5.
    assert np.abs(drawn - 600).max() < 103


def test_a_share_is_rounded_down_exactly() -> None:
    people = _population([(f"{row}", 0.0) for row in range(100)])
    assert size(people, Decimal("0.29")) == 29  # 0.29 * 100 is 28.999... in binary
    assert size(people, Decimal("0.299")) == 29


@pytest.mark.parametrize("share", ["0", "0.009", "1"])
def test_a_share_that_leaves_nothing_to_compare_is_refused(share: str) -> None:
    people = _population([(f"{row}", 0.0) for row in range(100)])
    with pytest.raises(UsageError, match="nothing to compare"):
        size(people, Decimal(share))
