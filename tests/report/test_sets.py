"""The pairs that the page shows are those that sorting everything would give, in whatever order the tables come."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecif import detectors, lists
from ecif.lists import Lists
from ecif.policy.settings import PolicySettings
from ecif.report.deciding import Deciding
from ecif.report.numbers import SETS, SPARED, ScoredPair
from ecif.report.sampling import draws
from ecif.report.sets import described, reasons, sets
from ecif.report.tally import Tally
from ecif.scores import IDENTITY
from ecif.selection import Decision, choose, dropped_mask
from ecif.storage import Storage
from ecif.verdicts import MERGED, judge

SCORES, SHOWN = "0123456789ab", 6
STATUSES = ("no_caption", "decode_error", "small_batch")
KIND = {"uid": pl.String, "key": pl.String, "shard": pl.String, "index": pl.UInt32, "status": pl.String}


def table(name: str, rows: int) -> pl.DataFrame:
    """Many ties, several statuses, and columns without a value here and there."""
    random = np.random.default_rng([rows, *name.encode()])
    status = random.choice(["ok"] * 12 + list(STATUSES), rows)
    values = {column: random.integers(-40, 40, rows) / 8 for column in detectors.NAMES}
    frame = pl.DataFrame(
        {
            "uid": [f"{n % 7}" for n in range(rows)],
            "key": [f"{n // 2:03d}" for n in range(rows)],
            "shard": [name] * rows,
            "index": range(rows),
            "status": status.tolist(),
            **values,
            "lemon": np.where(random.random(rows) < 0.2, np.nan, random.normal(size=rows)),
        },
        schema_overrides=KIND,
    )
    scores = pl.col(*detectors.NAMES, "lemon").cast(pl.Float32)
    return frame.with_columns(pl.when(pl.col("status") == "ok").then(scores))


def corpus(sizes: Sequence[int]) -> dict[str, pl.DataFrame]:
    return {name: table(name, rows) for name, rows in zip(("a", "b/c", "b/d", "e"), sizes, strict=False)}


def decide(frames: dict[str, pl.DataFrame], folder: Path, policy: dict[str, object] | None) -> Decision | None:
    if policy is None:
        return None
    urls = {}
    for name, frame in frames.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path)
        urls[name] = str(path)
    given_policy = PolicySettings(**{"detector": "influence", **policy})  # type: ignore[arg-type]
    return choose(Storage(), urls, given_policy, key="d", score_key=SCORES, fit_key="f")


def tally_of(frames: dict[str, pl.DataFrame], decision: Decision | None, order: Sequence[str]) -> Tally:
    tally = Tally(SCORES, Deciding.of(decision, (*detectors.NAMES, "lemon"), None), SHOWN)
    for name in order:
        tally.add(name, 1, "", frames[name], name)
    return tally


def who(pairs: Sequence[ScoredPair]) -> list[tuple[str, int]]:
    return [(pair.shard, pair.index) for pair in pairs]


def naive_draw(shard: str, index: int) -> int:
    """SplitMix64 in whole numbers."""
    most = 1 << 64
    z = int.from_bytes(hashlib.sha256(f"0:{shard}".encode()).digest()[:8], "big")
    z = (z + (index + 1) * 0x9E3779B97F4A7C15) % most
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % most
    z = (z ^ z >> 27) * 0x94D049BB133111EB % most
    return z ^ z >> 31


def naive(frames: dict[str, pl.DataFrame], decision: Decision | None) -> dict[str, list[tuple[str, int]]]:
    """Everything sorted in Python."""
    rows = [row for frame in frames.values() for row in frame.iter_rows(named=True)]
    dropped = {
        (frame["shard"][n], n): bool(goes)
        for frame in frames.values()
        for n, goes in enumerate(dropped_mask(frame, decision) if decision else [False] * len(frame))
    }

    def at(row: dict[str, object]) -> tuple[str, int]:
        return str(row["shard"]), int(row["index"])  # type: ignore[call-overload]

    def worse(row: dict[str, object]) -> float:
        if decision is None:
            return float(row["influence"])  # type: ignore[arg-type]
        if decision.rank_by:
            return float(row["clip_score"]) - float(row["influence"])  # type: ignore[arg-type]
        return float(row[decision.detector])  # type: ignore[arg-type]

    def identity(row: dict[str, object]) -> tuple[object, ...]:
        return tuple(row[name] for name in IDENTITY)

    ok = sorted((row for row in rows if row["status"] == "ok"), key=lambda row: (worse(row), identity(row)))
    found = {"worst": ok[: min(SHOWN, (len(ok) + 1) // 2)], "best": ok[::-1][: min(SHOWN, len(ok) // 2)]}
    half = SHOWN // 2
    if decision is None or not (decision.threshold is not None or decision.groups or decision.every):
        place = math.floor(0.05 * len(ok))
        found["borderline"] = ok[max(0, place - half) : place + half]
    elif decision.control is not None:
        found["borderline"] = []
    else:
        cuts = {group.group: group.threshold for group in decision.groups}

        def margin(row: dict[str, object]) -> float:
            if decision.every:
                return worse(row)
            return worse(row) - float(cuts[str(row["shard"])] if cuts else decision.threshold)  # type: ignore[arg-type]

        candidates = [row for row in ok if not decision.where or row["clip_score"] > 0 or decision.every]
        candidates = [row for row in candidates if not cuts or cuts[str(row["shard"])] is not None]
        order = sorted(candidates, key=lambda row: (margin(row), identity(row)))
        going = [row for row in order if dropped[at(row)]]
        staying = [row for row in order if not dropped[at(row)]]
        found["borderline"] = going[-half:] + staying[:half]
    drawn = sorted(rows, key=lambda row: naive_draw(*at(row)))
    found["random"] = [row for row in drawn if row["status"] == "ok"][:SHOWN]
    queues = {status: [row for row in drawn if row["status"] == status] for status in sorted(STATUSES)}
    chosen: list[dict[str, object]] = []
    while len(chosen) < SHOWN and any(queues.values()):
        for queue in queues.values():
            if queue and len(chosen) < SHOWN:
                chosen.append(queue.pop(0))
    found["unscored"] = sorted(chosen, key=lambda row: str(row["status"]))
    return {name: [at(row) for row in found[name]] for name in SETS}


POLICIES: list[dict[str, object] | None] = [
    None,
    {"drop": Decimal("0.3")},
    {"drop": Decimal("0.1"), "where": "clip_score > 0"},
    {"where": "clip_score > 0"},
    {"drop": Decimal("0.2"), "by": "shard"},
    {"threshold": 0.3},
    {"rank_by": "clip_score - influence", "drop": Decimal("0.25")},
    {"drop": Decimal("0.2"), "control": 5},
]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@settings(max_examples=12, deadline=None)
@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=4), random=st.randoms(use_true_random=False))
def test_the_sets_are_those_of_sorting_everything(
    tmp_path_factory: pytest.TempPathFactory, policy: dict[str, object] | None, sizes: list[int], random: object
) -> None:
    frames = corpus(sizes)
    decision = decide(frames, tmp_path_factory.mktemp("scores"), policy)
    order = list(frames)
    random.shuffle(order)  # type: ignore[attr-defined]
    found = sets(tally_of(frames, decision, order), Lists())
    assert {name: who(pairs) for name, pairs in found.items()} == naive(frames, decision)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_pair_says_what_its_row_says(tmp_path: Path, policy: dict[str, object] | None) -> None:
    frames = corpus([60, 50, 40, 0])
    decision = decide(frames, tmp_path, policy)
    tally = tally_of(frames, decision, list(frames))
    ok = pl.concat(list(frames.values())).filter(pl.col("status") == "ok")
    for pairs in sets(tally, Lists()).values():
        for pair in pairs:
            row = frames[pair.shard].row(pair.index, named=True)
            assert (pair.uid, pair.key, pair.status) == (row["uid"], row["key"], row["status"])
            assert pair.group == (pair.shard if decision is not None and decision.by else None)
            goes = dropped_mask(frames[pair.shard], decision)[pair.index] if decision is not None else False
            assert pair.dropped == goes
            for name in (*detectors.NAMES, "lemon"):
                value = None if row[name] is None or math.isnan(row[name]) else row[name]
                assert pair.scores[name] == value
                if pair.status == "ok" and value is not None:
                    every = ok[name].drop_nans().to_numpy().astype(np.float64)
                    sign = 1.0 if detectors.facts(name).higher_is_worse else -1.0
                    bad, near = sign * every, 1e-3 * abs(value)
                    least, most = (bad > sign * value + near).mean(), (bad >= sign * value - near).mean()
                    assert least <= pair.ranks[name] <= most
                else:
                    assert name not in pair.ranks


def test_the_worst_ranks_nought_and_ranks_rise_to_one(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = table("a", 3_000).filter(pl.col("status") == "ok")
    frame = frame.with_columns(
        pl.Series("index", range(len(frame)), dtype=pl.UInt32),
        *(pl.Series(name, random.standard_cauchy(len(frame)) * 1e-6, dtype=pl.Float32) for name in detectors.NAMES),
    )
    tally = tally_of({"a": frame}, None, ["a"])
    for name in ("influence", "clip_score"):
        chosen = tally.sample.sort(name)
        ranks = [pair.ranks[name] for pair in described(chosen, tally, Lists())]
        expected = np.arange(len(frame)) / len(frame)
        assert ranks[0] == 0
        assert np.abs(np.array(ranks) - expected).max() < (1e-9 if name == "influence" else 1e-3)


def listed(*texts: str) -> lists.Listed:
    return lists.load(lists.freeze("\n".join(texts).encode(), "list"))


@given(
    st.lists(st.sampled_from(["uid:1", "uid:2", "key:003", "sample:a/004", "sample:b/c/005", "uid:6"]), max_size=3),
    st.lists(st.sampled_from(["uid:1", "uid:3", "key:004", "sample:a/006"]), max_size=3),
    st.lists(st.sampled_from(["uid:2", "uid:3", "key:007"]), max_size=3),
    st.lists(st.sampled_from(["uid:4", "uid:0", "key:003"]), max_size=3),
    st.sampled_from(["keep", "drop", "quarantine"]),
)
@settings(max_examples=60, deadline=None)
def test_reasons_are_those_of_the_verdicts(
    tmp_path_factory: pytest.TempPathFactory,
    deny: list[str],
    allow: list[str],
    drop: list[str],
    keep: list[str],
    unscored: str,
) -> None:
    frames = {"a": table("a", 40).with_columns(key=pl.format("{}", pl.col("index").cast(pl.String).str.zfill(3)))}
    decision = decide(frames, tmp_path_factory.mktemp("scores"), {"drop": Decimal("0.3"), "unscored": unscored})
    assert decision is not None
    places = {"a": np.array([1, 5, 6, 30], np.uint32)}
    given_lists = Lists(listed(*deny), listed(*allow), listed(*drop), listed(*keep), places)
    verdicts = judge(frames["a"], decision, given_lists)
    rows = frames["a"].with_columns(dropped_mask(frames["a"], decision))
    without = judge(frames["a"], decision)["action"] != "keep"
    for said, action, reason, goes, index in zip(
        reasons(rows, decision, given_lists), verdicts["action"], verdicts["reason"], without, range(40), strict=True
    ):
        if said in ("", SPARED):
            assert reason is None or reason == "policy" or reason.startswith("unscored:")
            assert reason != MERGED
            assert (said == SPARED) == (action == "keep" and (goes or index in places["a"]))
        else:
            assert said == reason


def test_draws_are_uniform_and_of_the_pair_alone() -> None:
    index = np.arange(20_000)
    found = draws("some/shard", index)
    assert found[[3, 77]].tolist() == [naive_draw("some/shard", 3), naive_draw("some/shard", 77)]
    assert np.array_equal(draws("some/shard", index[5:9]), found[5:9])
    counts = np.histogram(found.astype(np.float64), bins=20, range=(0, 2.0**64))[0]
    assert ((counts - 1_000) ** 2 / 1_000).sum() < 43.8  # 99.9 % of chi-squared with 19 degrees of freedom
    assert len(set(found.tolist()) & set(draws("another", index).tolist())) == 0
