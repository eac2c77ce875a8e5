"""What is counted on the way of the cut is what judging every pair gives, and whose tables that reads."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.policy.settings import PolicySettings
from ecif.policy.tables import beside_of
from ecif.selection import Cut, make_cut
from ecif.stages.outcome import count, count_cut
from ecif.storage import Storage
from tests.scored import PLENTY, Counting, room

SCHEMA: dict[str, Any] = {
    "uid": pl.String, "key": pl.String, "shard": pl.String, "index": pl.UInt32, "status": pl.String,
    "influence": pl.Float32, "clip_score": pl.Float32,
}  # fmt: skip
SCORES = "5" * 12

pair = st.tuples(
    st.sampled_from(["a", "b", "c"]),  # uid
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.25, float("nan"), None]),  # influence; no number: not scored
    st.sampled_from([0.1, 0.9, float("nan"), None]),  # clip_score
    st.sampled_from(["bad", "duplicate_key", "small_batch", None]),  # the status of a pair that is not scored
    st.sampled_from(["de", "en", None]),  # language
)
# Two pairs of a shard may share their key, as long as another lies between them.
corpora = st.lists(
    st.tuples(st.lists(pair, max_size=8), st.sampled_from([2, 3, 100]), st.booleans()), min_size=1, max_size=5
)
cuts = st.sampled_from(
    [{"drop": Decimal("0.4")}, {"keep_count": 2}, {"threshold": 0.25}, {"drop": Decimal(0)}, {"drop": Decimal(1)}, {}]
)
policies = st.fixed_dictionaries(
    {
        "where": st.sampled_from(["", "clip_score < 0.5"]),
        "by": st.sampled_from(["", "shard", "language"]),
        "control": st.sampled_from([None, 3]),
        "unscored": st.sampled_from(["keep", "drop", "quarantine"]),
        "dropped": st.sampled_from(["drop", "quarantine"]),
    }
)


def lay_out(folder: Path, corpus: Any) -> tuple[Layout, list[Shard]]:
    """Score tables, and tables with the languages beside some shards."""
    layout, shards = Layout(str(folder / "out")), []
    for n, (content, keys, has_table) in enumerate(corpus):
        name, beside = f"{n:02d}", str(folder / f"{n:02d}.parquet")
        rows = [
            {"uid": uid, "key": f"{i % keys:03d}", "shard": name, "index": i,
             "status": "ok" if score is not None and score == score else status,
             "influence": score, "clip_score": clip}
            for i, (uid, score, clip, status, _) in enumerate(content)
        ]  # fmt: skip
        target = Path(layout.scores(SCORES, name))
        target.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(rows, schema=SCHEMA).write_parquet(target)
        # A table beside the shard has one row for each key, so only shards whose keys differ have one.
        table = has_table and len(content) <= keys
        if table:
            keys_of, languages = [row["key"] for row in rows], [language for *_, language in content]
            columns = {"key": keys_of, "language": languages, "status": ["success"] * len(rows)}
            pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String)).write_parquet(beside)
        shards.append(
            Shard(name, f"/in/{name}.tar", 1_000_003 * (n + 1), "e", len(content), beside if table else None, None)
        )
    return layout, shards


def decided(layout: Layout, storage: Storage, shards: list[Shard], **policy: Any) -> Cut:
    urls = {shard.name: layout.scores(SCORES, shard.name) for shard in shards}
    given = PolicySettings(**{"detector": "influence", **policy})
    return make_cut(storage, urls, given, key="d", score_key=SCORES, fit_key="f", beside=beside_of(shards))


@settings(max_examples=80, deadline=None)
@given(corpora, cuts, policies, st.sampled_from([(PLENTY, PLENTY, PLENTY), (4, 2, 1), (0, PLENTY, PLENTY), (0, 0, 0)]))
def test_both_ways_count_the_same(
    corpus: Any, cut: dict[str, Any], policy: dict[str, Any], held: tuple[int, int, int]
) -> None:
    if not cut and not policy["where"]:
        return  # no policy
    with tempfile.TemporaryDirectory() as folder, room(*held):
        layout, shards = lay_out(Path(folder), corpus)
        if policy["by"] == "language" and not beside_of(shards):
            return  # refused
        found = decided(layout, Storage(), shards, **cut, **policy)
        assert count_cut(layout, Storage(), found, shards) == count(layout, Storage(), found.decision, shards)


PLAIN = [("a", 0.5, 0.1, None, "de"), ("b", 2.0, 0.1, None, "de"), ("c", None, 0.1, "bad", "de")]
REPEATED = [("a", 3.0, 0.1, None, "de"), ("b", 0.25, 0.9, None, "de"), ("c", 4.0, 0.9, None, "de")]
CORPUS = [(PLAIN, 100, True), (REPEATED, 2, False), ([PLAIN[1], PLAIN[2]], 100, True)]


def test_only_tables_in_which_a_key_repeats_are_read_again(tmp_path: Path) -> None:
    layout, shards = lay_out(tmp_path, CORPUS)
    found = decided(layout, Storage(), shards, drop_count=2, unscored="quarantine")
    storage = Counting()
    outcome = count_cut(layout, storage, found, shards)
    assert storage.times({shard.name: layout.scores(SCORES, shard.name) for shard in shards}) == {
        "00": 0,
        "01": 1,
        "02": 0,
    }
    # The first pair of 00 and the second of 01 go; what they stood between has one key.
    assert outcome.reasons == {"policy": 2, "unscored:bad": 2, "unscored:duplicate_key": 1}
    assert (outcome.kept, outcome.dropped, outcome.quarantined) == (3, 2, 3)


@pytest.mark.parametrize("known", [True, False])
def test_what_the_cut_does_not_know_is_judged(tmp_path: Path, known: bool) -> None:
    layout, shards = lay_out(tmp_path, CORPUS)
    found = decided(layout, Storage(), shards, threshold=1.0)
    if not known:
        found = replace(found, gone={})
    storage = Counting()
    outcome = count_cut(layout, storage, found, shards)
    assert len(storage.read) == (1 if known else 3)
    assert outcome == count(layout, Storage(), found.decision, shards)
    assert outcome.reasons["policy"] == 2
