"""Agreement and disagreement against their definitions in plain Python."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecif.report.agreement import compare

HIGHER = {"first": True, "second": False, "third": False}


def sample(seed: int, n: int, ties: int, holes: float = 0.0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    shared = random.normal(size=n)
    values = {
        name: np.round((shared * weight + random.normal(size=n)) * ties) / ties
        for name, weight in zip(HIGHER, (0.5, -2.0, 0.3), strict=True)
    }
    values["third"] = np.where(random.random(n) < holes, np.nan, values["third"])
    order = random.permutation(n)
    who = {"uid": [f"{i % 3}" for i in order], "key": [f"{i}" for i in order], "shard": ["s"] * n, "index": order}
    return pl.DataFrame(who | {name: of.astype(np.float32) for name, of in values.items()})


def places(values: list[float]) -> list[float]:
    """Ranks, equals in the middle."""
    return [sum(other < one for other in values) + (values.count(one) + 1) / 2 for one in values]


def spearman(one: list[float], other: list[float]) -> float:
    first, second = (np.array(places(values)) - (len(values) + 1) / 2 for values in (one, other))
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


@given(st.integers(0, 10**6), st.integers(3, 80), st.sampled_from([1, 4, 1000]), st.sampled_from([0.0, 0.2]))
@settings(max_examples=60, deadline=None)
def test_numbers_are_those_of_their_definitions(seed: int, n: int, ties: int, holes: float) -> None:
    given_sample = sample(seed, n, ties, holes)
    found = compare(given_sample, [*HIGHER.items()])
    there = given_sample["third"].is_finite()
    usable = given_sample.filter(there) if 2 * int(there.sum()) >= n else given_sample
    rows = usable.sort("uid", "key", "shard", "index").to_dicts()
    if found is None:
        differ = [name for name in HIGHER if usable[name].is_finite().all() and usable[name].n_unique() > 1]
        assert len(differ) < 2 or len(rows) < 3
        return
    assert len(found.rows) == len(rows)
    bad = {name: [row[name] * (1 if HIGHER[name] else -1) for row in rows] for name in found.columns}
    worst = {
        name: set(sorted(range(len(rows)), key=lambda i: (-bad[name][i], i))[: max(1, int(0.3 * len(rows)))])
        for name in found.columns
    }
    for i, one in enumerate(found.columns):
        for j, other in enumerate(found.columns):
            assert found.spearman()[i][j] == pytest.approx(spearman(bad[one], bad[other]), abs=1e-9)
            assert found.overlap(0.3)[i][j] == pytest.approx(len(worst[one] & worst[other]) / len(worst[one]))
    for first, second, value in found.apart(found.columns[-1]):
        assert value == pytest.approx(spearman(bad[first], bad[second]), abs=1e-9)
        gap = [a - b for a, b in zip(places(bad[first]), places(bad[second]), strict=True)]
        for side, sign in zip(found.extremes(first, second, 4), (1, -1), strict=True):
            order = [i for i in sorted(range(len(rows)), key=lambda i: (-sign * gap[i], i)) if sign * gap[i] > 0]
            assert side["index"].to_list() == [rows[i]["index"] for i in order[:4]]


def test_the_deciding_score_comes_first_and_the_most_different_pairs_are_taken() -> None:
    random = np.random.default_rng(0)
    base = random.normal(size=500)
    values = {"a": base, "b": -base, "c": base + 0.1 * random.normal(size=500), "d": base + random.normal(size=500)}
    who = {"uid": ["u"] * 500, "key": ["k"] * 500, "shard": ["s"] * 500, "index": range(500)}
    found = compare(pl.DataFrame(who | values), [(name, True) for name in values])
    assert found is not None
    chosen = found.apart("d")
    assert chosen[0][:2] == ("d", "b")
    assert {frozenset(item[:2]) for item in chosen} == {frozenset("db"), frozenset("ab"), frozenset("bc")}
    assert [len(found.apart("nothing", most)) for most in (1, 9)] == [1, 6]


def test_parts_of_influence_and_columns_without_values_are_left_out() -> None:
    given_sample = sample(0, 30, 1000).with_columns(
        pl.col("third").alias("positive_influence"),
        pl.lit(1.0).alias("same"),
        pl.lit(float("nan")).alias("none"),
    )
    columns = [*HIGHER.items(), ("positive_influence", False), ("same", True), ("none", True)]
    found = compare(given_sample, columns)
    assert found is not None
    assert found.columns == ("first", "second", "third")
    assert compare(given_sample, columns[:1]) is None
    assert compare(given_sample[:2], columns) is None
