"""The k-th worst pair against sorting everything, with much room and with none, and how often that reads each table."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ecif import ranking
from ecif.policy.rule import Rule
from ecif.policy.tables import Tables
from ecif.radix import image
from ecif.ranking import Ranking
from ecif.scores import IDENTITY
from ecif.storage import Storage
from tests.scored import PLENTY, Counting, Row, corpora, room, rooms, sorted_rows, table, write

RULE = Rule("influence", False)
TIED = 2_000


def by_shard(frames: dict[str, pl.DataFrame], rows: list[dict[str, Any]]) -> dict[str, int]:
    """How many of these rows lie in each shard."""
    found = Counter(row["shard"] for row in rows)
    return {name: found[name] for name in frames}


@settings(max_examples=60, deadline=None)
@given(corpora, rooms, st.integers(0, 3) | st.just(PLENTY), st.booleans(), st.data())
def test_the_kth_worst_is_the_kth_of_all_sorted(
    corpus: list[list[Row]], held: tuple[int, int], ties: int, higher_is_worse: bool, data: st.DataObject
) -> None:
    """Whatever may be held: scores, lower bits, identities."""
    frames = {f"{i:02d}": table(f"{i:02d}", content) for i, content in enumerate(corpus)}
    rule = Rule("influence", higher_is_worse)
    sign = -1 if higher_is_worse else 1
    expected = sorted_rows(frames, sign)
    assume(expected)
    k = data.draw(st.integers(1, len(expected)))
    with tempfile.TemporaryDirectory() as folder, room(*held, ties):
        found = Ranking.read(Tables(Storage(), write(Path(folder), frames)), rule)
        last = expected[k - 1]
        worst = found.worst([k])
        assert worst.places == [(last["influence"], tuple(last[name] for name in IDENTITY))]
        assert worst.gone.items() <= by_shard(frames, expected[:k]).items()
        assert ties != PLENTY or max(held) < PLENTY or set(worst.gone) == set(frames)
        worse = [row for row in expected if sign * row["influence"] < sign * last["influence"]]
        counted, of_shards = found.count_worse(last["influence"])
        assert (counted.tolist(), of_shards) == ([len(worse)], by_shard(frames, worse))
        assert (found.worst([0]).places, found.worst([0]).gone) == ([None], by_shard(frames, []))
    assert (found.n_ok, found.n_rows) == (len(expected), sum(map(len, corpus)))


@settings(max_examples=100, deadline=None)
@given(corpora, st.booleans(), st.data())
def test_a_table_is_read_again_only_for_what_is_not_known(
    corpus: list[list[Row]], fits: bool, data: st.DataObject
) -> None:
    """With room for the scores once, without it twice unless no row is scored; and once more for a tie that it has."""
    frames = {f"{i:02d}": table(f"{i:02d}", content) for i, content in enumerate(corpus)}
    expected = sorted_rows(frames)
    assume(expected)
    k = data.draw(st.integers(1, len(expected)))
    storage = Counting()
    with tempfile.TemporaryDirectory() as folder, room(PLENTY if fits else 0, PLENTY):
        scores = write(Path(folder), frames)
        (found,) = Ranking.read(Tables(storage, scores), RULE).worst([k]).places
    assert found
    level = found[0]
    values = {name: frame["influence"].drop_nulls().to_list() for name, frame in frames.items()}
    assert storage.times(scores) == {
        name: 1 + (bool(found) and not fits) + (level in found) for name, found in values.items()
    }


CLOSE, TIE, CLOSER = 0.501, 0.5, 0.502  # all in one bin of the first pass
MIXED: dict[str, list[Row]] = {
    "close": [("a", CLOSE), ("b", 0.9)],
    "one": [("a", 0.1), ("b", TIE)],
    "other": [("c", TIE), ("d", 7.0)],
    "rest": [("a", CLOSER), ("b", 0.9)],
    "unscored": [("a", None)],
}


@pytest.mark.parametrize(
    ("held", "reads"),
    [
        pytest.param((PLENTY, PLENTY, PLENTY), (1, 2, 2, 1, 1), id="everything fits"),
        pytest.param((PLENTY, 0, PLENTY), (1, 2, 2, 1, 1), id="held scores need no bits"),
        pytest.param((0, PLENTY, PLENTY), (2, 3, 3, 2, 1), id="the bits fit"),
        pytest.param((0, 1, PLENTY), (2, 3, 3, 3, 1), id="the bits of the first shard fit"),
        pytest.param((0, 0, PLENTY), (3, 3, 3, 3, 1), id="nothing fits"),
        pytest.param((4, 1, PLENTY), (1, 2, 3, 3, 1), id="the scores of two shards fit"),
        pytest.param((PLENTY, PLENTY, 1), (1, 3, 3, 1, 1), id="the ties do not fit"),
        pytest.param((0, PLENTY, 1), (2, 4, 4, 2, 1), id="only the bits fit"),
    ],
)
def test_how_often_each_table_is_read(tmp_path: Path, held: tuple[int, int, int], reads: tuple[int, ...]) -> None:
    assert len({int(code) >> 16 for code in image(np.array([CLOSE, TIE, CLOSER], dtype=np.float32))}) == 1
    scores = write(tmp_path, {name: table(name, content) for name, content in MIXED.items()})
    storage = Counting()
    with room(*held):
        (found,) = Ranking.read(Tables(storage, scores), RULE).worst([2]).places
    assert found
    level, tie = found
    assert (level, tie[0]) == (TIE, "b")
    assert tuple(storage.times(scores).values()) == reads


@pytest.mark.parametrize(("values", "reads"), [(PLENTY, 1), (0, 2)])
def test_counting_up_to_a_threshold_reads_what_is_not_held(tmp_path: Path, values: int, reads: int) -> None:
    scores = write(tmp_path, {name: table(name, MIXED[name]) for name in ("close", "one", "other")})
    storage = Counting()
    with room(values, PLENTY):
        assert Ranking.read(Tables(storage, scores), RULE).count_worse(0.6)[0].tolist() == [4]
    assert set(storage.times(scores).values()) == {reads}


def test_what_is_held_has_bounds(tmp_path: Path) -> None:
    frames = {f"{i:02d}": table(f"{i:02d}", [(str(j), float(j)) for j in range(30)]) for i in range(9)}
    with room(100, PLENTY):
        held = Ranking.read(Tables(Storage(), write(tmp_path, frames)), RULE).held
    assert {name: values.size for name, (values, _) in held.items()} == {"00": 30, "01": 30, "02": 30}


@settings(max_examples=25, deadline=None)
@given(corpora, rooms, st.integers(0, 3), st.data())
def test_ties_are_settled_in_bounded_memory(
    corpus: list[list[Row]], held: tuple[int, int], ties: int, data: st.DataObject
) -> None:
    """All pairs tie, and with room for only a few identities the narrowing passes take over."""
    frames = {f"{i:02d}": table(f"{i:02d}", [(uid, 0.25) for uid, _ in content]) for i, content in enumerate(corpus)}
    expected = sorted_rows(frames)
    assume(expected)
    k = data.draw(st.integers(1, len(expected)))
    with tempfile.TemporaryDirectory() as folder, room(*held, ties):
        (found,) = Ranking.read(Tables(Storage(), write(Path(folder), frames)), RULE).worst([k]).places
    assert found
    assert found[1] == tuple(expected[k - 1][name] for name in IDENTITY)


def test_narrowing_never_holds_more_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of 2,000 pairs tie and share 20 leading characters; at most 50 identities are sorted at the end."""
    content: list[Row] = [(f"{'0' * 20}{i * 7919 % TIED:04d}", -0.0 if i % 2 else 0.0) for i in range(TIED)]
    scores = write(tmp_path, {"00": table("00", content[:1_200]), "01": table("01", content[1_200:])})
    sizes: list[int] = []

    def sorting(items: Any) -> list[Any]:
        listed = sorted(items)
        sizes.append(len(listed))
        return listed

    monkeypatch.setattr(ranking, "TIES_HELD", 50)
    monkeypatch.setattr(ranking, "sorted", sorting, raising=False)
    (found,) = Ranking.read(Tables(Storage(), scores), RULE).worst([600]).places
    assert found
    threshold, tie = found
    assert threshold == 0
    assert tie[0] == f"{'0' * 20}{599:04d}"
    assert max(sizes) <= 100
