"""Every policy, and what can be combined, against plain Python over all rows at once."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecif.calibration.learned import Model
from ecif.errors import InputError, UsageError
from ecif.policy.decision import Decision
from ecif.policy.settings import PolicySettings
from ecif.policy.tables import Tables
from ecif.ranking import MOST_GROUPS
from ecif.selection import choose, dropped_mask, ranks
from ecif.storage import Storage
from tests.scored import PLENTY, room

NAMES: dict[str, Any] = {"key": "d", "score_key": "s", "fit_key": "f"}
SCHEMA: dict[str, Any] = {
    "uid": pl.String, "key": pl.String, "shard": pl.String, "index": pl.UInt32, "status": pl.String,
    "influence": pl.Float32, "clip_score": pl.Float32,
}  # fmt: skip
few = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 3e38])
pair = st.tuples(
    st.sampled_from(["a", "b", "c", "d"]),  # uid
    st.none() | few,  # influence; None: not scored
    few | st.just(float("nan")) | st.none(),  # clip_score
    st.sampled_from(["de", "en", None]),  # language
    st.sampled_from([1, 2, 3]),  # width
)
corpora = st.lists(st.tuples(st.lists(pair, max_size=7), st.booleans()), min_size=1, max_size=4)
fractions = st.decimals(0, 1, places=2)
cuts = st.one_of(
    fractions.map(lambda f: {"drop": f}), fractions.map(lambda f: {"keep": f}),
    st.integers(0, 6).map(lambda n: {"keep_count": n}), st.integers(0, 3).map(lambda n: {"drop_count": n}),
    few.map(lambda t: {"threshold": t}), st.just({}),
)  # fmt: skip
conditions = {
    "": lambda row: True,
    "clip_score < 0.5": lambda row: known(row["clip_score"]) and row["clip_score"] < 0.5,
    "not clip_score < 0.5": lambda row: known(row["clip_score"]) and not row["clip_score"] < 0.5,
    "language = 'de' or width > 2": lambda row: row["language"] == "de" or (row["width"] or 0) > 2,
    "language is null": lambda row: row["language"] is None,
}
rankings: dict[str, Any] = {
    "": lambda row: row["influence"],
    "-clip_score": lambda row: -row["clip_score"] if known(row["clip_score"]) else None,
    "influence + 2 * clip_score": lambda row: (
        single(row["influence"] + 2 * row["clip_score"]) if known(row["clip_score"]) else None
    ),
}
groupings = {"": lambda row: "all", "language": lambda row: row["language"], "shard": lambda row: row["shard"],
             "width": lambda row: None if row["width"] is None else str(row["width"])}  # fmt: skip
policies = st.tuples(
    cuts, st.sampled_from(list(conditions)), st.sampled_from(list(rankings)), st.sampled_from(list(groupings)),
    st.none() | st.integers(0, 3),
)  # fmt: skip


def known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def single(value: float) -> float | None:
    with np.errstate(over="ignore"):
        found = float(np.float32(value))
    return found if math.isfinite(found) else None


def build(folder: Path, corpus: Any) -> tuple[list[dict[str, Any]], Tables]:
    """Score tables and, for some shards, tables beside them with a row of a failed download and in another order."""
    rows, scores, beside = [], {}, {}
    for n, (content, has_table) in enumerate(corpus):
        shard = f"{n:02d}"
        own = [
            {"uid": uid, "key": f"{i:03d}", "shard": shard, "index": i, "status": "ok" if score is not None else "bad",
             "influence": score, "clip_score": clip, "language": language if has_table else None,
             "width": width if has_table else None}
            for i, (uid, score, clip, language, width) in enumerate(content)
        ]  # fmt: skip
        scores[shard] = str(folder / f"{shard}.parquet")
        pl.DataFrame([{name: row[name] for name in SCHEMA} for row in own], schema=SCHEMA).write_parquet(scores[shard])
        if has_table:
            beside[shard] = str(folder / f"{shard}.beside.parquet")
            table = {"key": [r["key"] for r in reversed(own)], "language": [r["language"] for r in reversed(own)],
                     "width": [r["width"] for r in reversed(own)], "status": ["success"] * len(own)}  # fmt: skip
            lost = {"key": ["lost"], "language": ["de"], "width": [9], "status": ["failed_to_download"]}
            schema = {"key": pl.String, "language": pl.String, "width": pl.Int32, "status": pl.String}
            pl.concat([pl.DataFrame(lost, schema=schema), pl.DataFrame(table, schema=schema)]).write_parquet(
                beside[shard]
            )
        rows += own
    return rows, Tables(Storage(), scores, beside)


def naive(rows: list[dict[str, Any]], cut: dict[str, Any], where: str, rank: str, by: str, control: int | None) -> Any:
    """What a policy drops, by sorting lists; None where it must be refused."""

    def grouped(candidates: list[dict[str, Any]]) -> dict[Any, list[dict[str, Any]]]:
        found = defaultdict(list)
        for row in candidates:
            found[groupings[by](row)].append(row)
        return found

    scored = [row for row in rows if row["status"] == "ok"]
    candidates = [row for row in scored if rankings[rank](row) is not None and conditions[where](row)]
    gone = {}
    for group, members in grouped(candidates).items():
        ordered = sorted(members, key=lambda r: (rankings[rank](r) or 0.0, r["uid"], r["key"], r["shard"], r["index"]))
        n = len(ordered)
        name, value = next(iter(cut.items()), ("all", 0))
        if name == "drop_count" and value > n:
            return None
        sizes_of: dict[str, Any] = {
            "drop": lambda n=n, v=value: int(v * n), "keep": lambda n=n, v=value: n - int(v * n),
            "keep_count": lambda n=n, v=value: max(0, n - v), "drop_count": lambda v=value: v,
            "threshold": lambda o=ordered, v=value: sum(rankings[rank](row) < v for row in o), "all": lambda n=n: n,
        }  # fmt: skip
        k = sizes_of[name]()
        gone[group] = ordered[:k]
    if not by and not candidates and cut.get("drop_count"):
        return None
    if control is not None:
        sizes = {group: len(members) for group, members in gone.items()}

        def chance(row: dict[str, Any]) -> Any:
            digest = hashlib.sha256(f"{control}:{row['uid']}".encode()).hexdigest()
            return int(digest[:6], 16), row["uid"], row["key"], row["shard"], row["index"]

        gone = {group: sorted(members, key=chance)[: sizes.get(group, 0)] for group, members in grouped(scored).items()}
    return {(row["shard"], row["index"]) for members in gone.values() for row in members}


def dropped(tables: Tables, decision: Decision) -> set[tuple[str, int]]:
    found = set()
    for name, table in tables.stream(decision.rule, extra=("uid", "key", "shard", "index")):
        mask, places = dropped_mask(table, decision), ranks(table, decision)
        found |= {(name, index) for index in table.filter(mask)["index"]}
        assert not (mask & places.is_null()).any()
    return found


def decide(tables: Tables, **policy: Any) -> Decision:
    settings = PolicySettings(**{"detector": "influence", **policy})
    decision = choose(tables.storage, tables.scores, settings, beside=tables.beside, **NAMES)
    assert Decision.from_json(decision.to_json(), "here") == decision
    return decision


@settings(max_examples=250, deadline=None)
@given(corpora, policies, st.sampled_from([(PLENTY, PLENTY, PLENTY), (5, 2, 1), (0, 0, 0)]))
def test_every_combination_drops_what_plain_python_drops(corpus: Any, policy: Any, held: tuple[int, int, int]) -> None:
    cut, where, rank, by, control = policy
    if not cut and (not where or rank):
        return  # no policy, or one that is refused before it is looked at
    with tempfile.TemporaryDirectory() as folder, room(*held):
        rows, tables = build(Path(folder), corpus)
        expected = naive(rows, cut, where, rank, by, control)
        given = dict(cut, where=where, rank_by=rank, by=by, control=control)
        beside = by in ("language", "width") or "language" in where
        if expected is None or (beside and not tables.beside):
            with pytest.raises(UsageError, match=r"--drop-count|has a table beside"):
                decide(tables, **given)
            return
        decision = decide(tables, **given)
        assert dropped(tables, decision) == expected
    assert decision.n_dropped == len(expected)
    assert (decision.n_rows, decision.n_ok) == (len(rows), sum(row["status"] == "ok" for row in rows))


def corpus_of(folder: Path, groups: dict[str, int]) -> Tables:
    content = [(f"{g}{i}", float(i), 0.0, g, 1) for g, n in groups.items() for i in range(n)]
    return build(folder, [(content, True)])[1]


def test_quotas_hold_in_each_group_and_for_pairs_that_come_later(tmp_path: Path) -> None:
    tables = corpus_of(tmp_path, {"de": 10, "en": 100})
    decision = decide(tables, drop=Decimal("0.1"), by="language")
    assert [(cut.group, cut.n, cut.n_dropped) for cut in decision.groups] == [("de", 10, 1), ("en", 100, 10)]
    later = pl.DataFrame(
        {"uid": ["x"] * 3, "key": ["k"] * 3, "shard": ["9"] * 3, "index": [0, 1, 2], "status": ["ok"] * 3,
         "influence": [5.0] * 3, "beside:language": ["de", "en", "fr"]}
    )  # fmt: skip
    # A pair of English at 5.0 is among the worst tenth, one of German is not; of a new language none goes.
    assert dropped_mask(later, decision).to_list() == [False, True, False]


def test_a_threshold_and_a_condition_alone_hold_in_new_groups_too(tmp_path: Path) -> None:
    tables = corpus_of(tmp_path, {"de": 10})
    later = pl.DataFrame(
        {"uid": ["x"], "key": ["k"], "shard": ["9"], "index": [0], "status": ["ok"], "influence": [2.0],
         "beside:language": ["fr"]}
    )  # fmt: skip
    policies: list[dict[str, Any]] = [{"threshold": 3.0}, {"where": "influence < 3"}]
    for policy in policies:
        assert dropped_mask(later, decide(tables, by="language", **policy)).to_list() == [True]


def test_controls_have_the_same_size_and_other_pairs(tmp_path: Path) -> None:
    tables = corpus_of(tmp_path, {"de": 60, "en": 60})
    real = decide(tables, drop=Decimal("0.25"), by="language")
    one, again, two = (decide(tables, drop=Decimal("0.25"), by="language", control=seed) for seed in (1, 1, 2))
    assert one == again
    sets = [dropped(tables, decision) for decision in (real, one, two)]
    assert [len(found) for found in sets] == [30, 30, 30]
    assert len({frozenset(found) for found in sets}) == 3
    assert [(cut.group, cut.n_dropped) for cut in one.groups] == [("de", 15), ("en", 15)]


def test_the_learned_detector_ranks_by_its_columns_and_its_model_is_frozen(tmp_path: Path) -> None:
    """Weights, in the decision's own file: a later calibration changes nothing."""
    pairs = [("a", 1.0, 3.0), ("b", 1.0, 1.0), ("c", 2.0, None), ("d", None, 0.0), ("e", 3.0, 2.0)]
    _, tables = build(tmp_path, [([(uid, score, clip, None, 1) for uid, score, clip in pairs], False)])
    model = Model(("clip_score",), (-1.0,), (0.0,), (1.0,), (2.0,), 0.5, "clip_score", None)
    decision = choose(
        tables.storage, tables.scores, PolicySettings(detector="p_misaligned", drop_count=2), model=model, **NAMES
    )
    assert Decision.from_json(json.loads(json.dumps(decision.to_json())), "here") == decision
    assert decision.rule.model == model
    # The lowest similarities are the worst; a row that the model knows nothing of is no candidate.
    assert (decision.n_ok, decision.candidates, decision.higher_is_worse) == (4, 3, True)
    assert dropped(tables, decision) == {("00", 1), ("00", 4)}
    with pytest.raises(InputError, match="not a learned detector"):
        Decision.from_json(decision.to_json() | {"model": {"columns": []}}, "here")


def test_what_cannot_be_decided_is_refused_with_a_way_out(tmp_path: Path) -> None:
    tables = corpus_of(tmp_path, {"de": 3, "en": 5})
    refused: list[tuple[dict[str, Any], str]] = [
        ({"drop": "0.5", "by": "langauge"}, "column 'langauge'. Did you mean 'language'?"),
        ({"where": "clip_scor < 1"}, "column 'clip_scor'. Did you mean 'clip_score'?"),
        ({"where": "clip_score <"}, "--where: expected a number"),
        ({"where": "clip_score"}, "--where: something true or false"),
        ({"drop": "0.5", "rank_by": "clip_score < 1"}, "--rank-by: a number is needed"),
        ({"drop_count": 4, "by": "language"}, "--drop-count 4 is more than the 3 .* of the group 'de'"),
        ({"drop_count": 9}, "--drop-count 9 is more than the 8 pairs that could be scored"),
        ({"drop_count": 9, "where": "clip_score >= 0"}, "more than the 8 scored pairs for which --where is true"),
    ]  # fmt: skip
    for policy, message in refused:
        with pytest.raises(UsageError, match=message):
            decide(tables, **policy)
    bare = Tables(tables.storage, tables.scores)
    with pytest.raises(UsageError, match="no shard has a table beside it"):
        decide(bare, drop="0.5", by="language")


@pytest.mark.parametrize(
    ("policy", "message"),
    [({"drop": 0.1, "keep": 0.1}, "give one policy, not --drop and --keep"), 
     ({"control": 1}, "--control drops as many"),
     ({"rank_by": "influence"}, "--rank-by ranks pairs for a cut"), ({"by": "shard"}, "--by divides a policy"),
     ({"keep": 1.5}, "a fraction lies in")],
)  # fmt: skip
def test_settings_that_make_no_policy_are_refused(policy: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PolicySettings(**policy)


def test_too_many_groups_and_lists_in_a_column_are_refused(tmp_path: Path) -> None:
    tables = build(tmp_path, [([("a", float(i), 0.0, "de", 1) for i in range(3)], True)])[1]
    many = pl.DataFrame({"key": [f"{i:03d}" for i in range(3)], "language": [["a"]] * 3})
    many.write_parquet(tables.beside["00"])
    with pytest.raises(InputError, match=r"the column language holds List\(String\)"):
        decide(tables, drop=Decimal(1), by="language")
    n = MOST_GROUPS + 1
    content = [(f"{i}", 0.0, 0.0, f"{i}", 1) for i in range(n)]
    with pytest.raises(UsageError, match="--by language: more than 10,000 different values"):
        decide(build(tmp_path, [(content, True)])[1], drop=Decimal(1), by="language")


def test_a_table_of_another_tar_is_refused(tmp_path: Path) -> None:
    tables = corpus_of(tmp_path, {"de": 3})
    pl.DataFrame({"key": ["000", "001"], "language": ["de", "de"]}).write_parquet(tables.beside["00"])
    with pytest.raises(InputError, match="has no row"):
        decide(tables, drop=Decimal(1), by="language")
