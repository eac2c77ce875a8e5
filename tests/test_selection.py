"""Selection against sorting everything: the same pairs, whatever the scores, the ties, the shards and their order."""

from __future__ import annotations

import hashlib
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecif import selection
from ecif.agreement import canonical
from ecif.detectors import Facts
from ecif.errors import InputError, UsageError
from ecif.policy.settings import PolicySettings
from ecif.selection import Decision, choose, dropped_mask, ranks
from ecif.storage import Storage
from tests.scored import PLENTY, SCHEMA, Row, corpora, few, room, rooms, rows, sorted_rows, table, write

NAMES: Any = {"key": "d", "score_key": "s", "fit_key": "f"}

fractions = st.decimals(0, 1, places=3) | st.sampled_from([Decimal(0), Decimal(1), Decimal("0.5")])


def decide(frames: dict[str, pl.DataFrame], **policy: Any) -> Decision:
    with tempfile.TemporaryDirectory() as folder:
        return choose(
            Storage(), write(Path(folder), frames), PolicySettings(**{"detector": "influence", **policy}), **NAMES
        )


def dropped(frames: dict[str, pl.DataFrame], decision: Decision) -> set[tuple[str, int]]:
    return {
        (name, index)
        for name, frame in frames.items()
        for index in frame.filter(dropped_mask(frame, decision))["index"].to_list()
    }


@settings(max_examples=60, deadline=None)
@given(corpora, fractions, rooms)
def test_a_fraction_drops_exactly_what_sorting_would_drop(
    corpus: list[list[Row]], fraction: Decimal, held: tuple[int, int]
) -> None:
    frames = {f"{i:02d}": table(f"{i:02d}", content) for i, content in enumerate(corpus)}
    n_ok = sum(score is not None for content in corpus for _, score in content)
    k = int(fraction * n_ok)
    expected = sorted_rows(frames)[:k]

    with room(*held):
        decision = decide(frames, drop=fraction)

    assert dropped(frames, decision) == {(row["shard"], row["index"]) for row in expected}
    assert (decision.n_dropped, decision.n_ok, decision.shards) == (k, n_ok, len(frames))
    assert decision.n_rows == sum(map(len, corpus))
    if k:
        last = expected[-1]
        assert decision.threshold == last["influence"]
        assert decision.tie == (last["uid"], last["key"], last["shard"], last["index"])
    else:
        assert decision.threshold is None
        assert decision.tie is None


@settings(max_examples=40, deadline=None)
@given(corpora, fractions, rooms)
def test_higher_is_worse_drops_from_the_other_end(
    corpus: list[list[Row]], fraction: Decimal, held: tuple[int, int]
) -> None:
    frames = {f"{i:02d}": table(f"{i:02d}", content) for i, content in enumerate(corpus)}
    k = int(fraction * sum(score is not None for content in corpus for _, score in content))
    with pytest.MonkeyPatch.context() as patch, room(*held):
        patch.setattr(selection, "facts", lambda name: Facts(name, True, "", ""))
        decision = decide(frames, drop=fraction)
        got = dropped(frames, decision)
    assert decision.higher_is_worse
    assert got == {(row["shard"], row["index"]) for row in sorted_rows(frames, sign=-1)[:k]}


@settings(max_examples=40, deadline=None)
@given(corpora, st.one_of(few, st.floats(allow_nan=False, allow_infinity=False)), rooms)
def test_a_threshold_drops_what_is_strictly_worse(
    corpus: list[list[Row]], threshold: float, held: tuple[int, int]
) -> None:
    frames = {f"{i:02d}": table(f"{i:02d}", content) for i, content in enumerate(corpus)}
    with room(*held):
        decision = decide(frames, threshold=threshold)
    expected = {
        (name, row["index"])
        for name, frame in frames.items()
        for row in frame.iter_rows(named=True)
        if row["influence"] is not None and row["influence"] < threshold
    }
    assert dropped(frames, decision) == expected
    assert decision.n_dropped == len(expected)


def test_a_threshold_above_wanted_scores_works_the_other_way_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "facts", lambda name: Facts(name, True, "", ""))
    frames = {"00": table("00", [("a", 0.5), ("b", 2.0), ("c", 1.0)])}
    decision = decide(frames, threshold=1.0)
    assert dropped(frames, decision) == {("00", 1)}
    assert decision.n_dropped == 1


@settings(max_examples=40, deadline=None)
@given(corpora, st.randoms(use_true_random=False), rooms)
def test_the_order_of_shards_does_not_matter(corpus: list[list[Row]], random: Any, held: tuple[int, int]) -> None:
    frames = {f"{i:02d}": table(f"{i:02d}", content) for i, content in enumerate(corpus)}
    names = list(frames)
    random.shuffle(names)
    with room(*held):
        shuffled = decide({name: frames[name] for name in names}, drop=Decimal("0.5"))
    assert shuffled == decide(frames, drop=Decimal("0.5"))


def test_the_masks_of_many_shards_add_up_to_k(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frames = {}
    for n in range(10):
        values = random.normal(scale=1e-6, size=200).astype(np.float32)
        frames[f"{n:02d}"] = table(f"{n:02d}", [(f"{random.integers(1 << 30):08x}", float(v)) for v in values])
    for k in (1, 199, 1_000, 2_000):
        decision = choose(
            Storage(), write(tmp_path, frames), PolicySettings(detector="influence", drop_count=k), **NAMES
        )
        assert len(dropped(frames, decision)) == k
        assert decision.policy == {"drop_count": k}


@pytest.mark.parametrize(
    ("fraction", "n", "k"),
    [("0.1", 1230, 123), ("0.1", 1239, 123), ("0.07", 100, 7), ("0.29", 100, 29), ("0.57", 100, 57), ("1", 7, 7),
     ("1e-3", 999, 0), ("0.3333333333333333333333333333333333333333", 3, 0), ("1.0", 0, 0)],
)  # fmt: skip
def test_fractions_are_exact_decimals(fraction: str, n: int, k: int) -> None:
    """0.29 * 100 is 28.999... in floating point, and 40 digits are more than the decimal context keeps."""
    frames = {"00": table("00", [(str(i), float(i)) for i in range(n)])}
    assert decide(frames, drop=Decimal(fraction)).n_dropped == k


def test_rows_without_a_score_never_count_and_never_go() -> None:
    frame = table("00", [("a", None), ("b", 1.0), ("c", None), ("d", -1.0)])
    # What stands in the score of such a row is not looked at.
    frame = frame.with_columns(influence=pl.Series([float("nan"), 1.0, -9.0, -1.0], dtype=pl.Float32))
    decision = decide({"00": frame}, drop=Decimal(1))
    assert (decision.n_rows, decision.n_ok, decision.n_dropped) == (4, 2, 2)
    assert dropped_mask(frame, decision).to_list() == [False, True, False, True]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), None])
def test_a_score_that_is_no_number_is_refused_with_file_and_row(tmp_path: Path, bad: float | None) -> None:
    frame = table("00", [("a", 1.0), ("b", None), ("c", 2.0)])
    frame = frame.with_columns(influence=pl.Series([1.0, None, bad], dtype=pl.Float32))
    scores = write(tmp_path, {"00": frame})
    with pytest.raises(InputError, match=r"00\.parquet: row 2 .* influence is"):
        choose(Storage(), scores, PolicySettings(detector="influence", drop=Decimal("0.5")), **NAMES)
    decision = decide({"00": frame[:1]}, drop=Decimal(1))
    with pytest.raises(InputError, match="shard 00: row 2"):
        dropped_mask(frame, decision)


def test_pairs_that_arrive_later_are_cut_at_the_same_place() -> None:
    decision = decide({"00": table("00", [("b", 1.0), ("a", 1.0), ("c", 0.0), ("d", 2.0)])}, drop=Decimal("0.5"))
    assert (decision.threshold, decision.tie) == (1.0, ("a", "001", "00", 1))
    later = table("01", [("0", 1.0), ("a", 1.0), ("z", 1.0), ("z", 0.5), ("0", 1.5)])
    assert dropped_mask(later, decision).to_list() == [True, False, False, True, False]


@settings(max_examples=40, deadline=None)
@given(st.lists(rows, max_size=12), fractions)
def test_ranks_run_from_the_worst_and_what_is_dropped_comes_first(content: list[Row], fraction: Decimal) -> None:
    frame = table("00", content)
    decision = decide({"00": frame}, drop=fraction)
    places = ranks(frame, decision)
    assert places.dtype == pl.UInt32
    assert places.is_null().to_list() == [score is None for _, score in content]
    assert sorted(places.drop_nulls().to_list()) == list(range(1, decision.n_ok + 1))
    assert dropped_mask(frame, decision).to_list() == [
        place is not None and place <= decision.n_dropped for place in places.to_list()
    ]


def test_an_empty_table_has_an_empty_mask() -> None:
    frame = table("00", [])
    decision = decide({"00": frame}, drop=Decimal(1))
    assert (decision.n_rows, decision.threshold) == (0, None)
    assert dropped_mask(frame, decision).len() == 0
    assert ranks(frame, decision).len() == 0


def test_decisions_survive_json() -> None:
    frames = {"00": table("00", [("a", 0.1), ("b", 0.2)])}
    for policy in ({"drop": Decimal("0.50")}, {"drop_count": 0}, {"threshold": 0.15}):
        decision = decide(frames, **policy)
        assert Decision.from_json(decision.to_json(), "decision.json") == decision
    assert decide(frames, drop=Decimal("0.50")).policy == decide(frames, drop=Decimal("0.5")).policy == {"drop": "0.5"}


@pytest.mark.parametrize(
    "change",
    [{"extra": 1}, {"tie": ["a", "b", "c", "d"]}, {"tie": "abcd"}, {"threshold": float("nan")}, {"threshold": "0"}],
)
def test_a_broken_decision_is_refused(change: dict[str, Any]) -> None:
    value = decide({"00": table("00", [("a", 0.1)])}, drop=Decimal(1)).to_json()
    with pytest.raises(InputError, match=r"^decision\.json: "):
        Decision.from_json(value | change, "decision.json")
    with pytest.raises(InputError, match="not a decision"):
        Decision.from_json([value], "decision.json")


def test_what_cannot_be_decided_is_refused(tmp_path: Path) -> None:
    scores = write(tmp_path, {"00": table("00", [("a", 0.1)])})
    with pytest.raises(UsageError, match="needs a policy"):
        choose(Storage(), scores, PolicySettings(), **NAMES)
    with pytest.raises(UsageError, match="more than the 1 pairs"):
        choose(Storage(), scores, PolicySettings(detector="influence", drop_count=2), **NAMES)
    with pytest.raises(UsageError, match="not finite"):
        choose(Storage(), scores, PolicySettings(detector="influence", threshold=float("inf")), **NAMES)
    with pytest.raises(UsageError, match="no 'magic'"):
        choose(Storage(), scores, PolicySettings(drop=Decimal(0), detector="magic"), **NAMES)


def test_a_file_that_holds_no_scores_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but not really PAR1")
    with pytest.raises(InputError, match=r"bad\.parquet: not a table with the scores"):
        choose(
            Storage(),
            {"bad": str(tmp_path / "bad.parquet")},
            PolicySettings(detector="influence", drop=Decimal(0)),
            **NAMES,
        )
    table("00", []).drop("influence").write_parquet(tmp_path / "old.parquet")
    with pytest.raises(InputError, match=r"old\.parquet: not a table with the scores status, influence"):
        choose(
            Storage(),
            {"old": str(tmp_path / "old.parquet")},
            PolicySettings(detector="influence", drop=Decimal(0)),
            **NAMES,
        )


VALUES = (0.0, -0.0, 0.5, -1e-45, 1e-45, -3e38, 3e38, 0.1, None, float("nan"))


def frozen_table(shard: int) -> pl.DataFrame:
    """Ties, zeros of both signs, denormals, uids and keys that occur twice, and rows without a score."""
    scores = [VALUES[(shard * 13 + i * i) % 10] for i in range(40 + shard)]
    columns = {
        "uid": [f"{(shard * 37 + i * 7919) % 101:03d}" for i in range(len(scores))],
        "key": [f"{i % 30:05d}" for i in range(len(scores))],
        "shard": [f"{shard:05d}"] * len(scores),
        "index": list(range(len(scores))),
        "status": ["ok" if score is not None and score == score else "small_batch" for score in scores],
        "influence": scores,
    }
    return pl.DataFrame(columns, schema=SCHEMA)


@pytest.mark.parametrize("held", [(PLENTY, PLENTY, PLENTY), (50, 3, 2)])
def test_a_decision_keeps_its_bytes_from_version_to_version(tmp_path: Path, held: tuple[int, int, int]) -> None:
    """An output is bound to them, so the same tables and policy give them for ever."""
    policies: list[dict[str, Any]] = [
        {"drop": "0.1"},
        {"keep": "0.37"},
        {"keep_count": 25, "by": "shard"},
        {"threshold": 0.1},
        {"where": "influence < 0.2", "drop": "0.5"},
        {"drop": "0.25", "control": 3},
        {"rank_by": "-influence", "drop_count": 17, "unscored": "drop"},
    ]
    scores = write(tmp_path, {f"{shard:05d}": frozen_table(shard) for shard in range(5)})
    with room(*held):
        made = [choose(Storage(), scores, PolicySettings(**{"detector": "influence", **p}), **NAMES) for p in policies]
    written = b"".join(canonical(one.to_json()) for one in made)
    assert hashlib.sha256(written).hexdigest() == "7de4b6292ba73fe3261765e651b370073ba94860c066a6264635d75932ea4b71"
