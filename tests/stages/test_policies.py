"""Policies from the plan to the proof: what was planned is what is written, and verify says so."""

from __future__ import annotations

import io
import random
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ecif import ALGO_VERSION, inventory, keys, manifest
from ecif.errors import UsageError
from ecif.layout import Layout
from ecif.policy.decision import Decision as Frozen
from ecif.policy.settings import PolicySettings
from ecif.settings import WriteSettings
from ecif.shards.tar import Limits
from ecif.sources import expand
from ecif.stages import outcome
from ecif.stages.plan import load_decision, mark_applied, plan
from ecif.stages.verify import verify
from ecif.stages.write import write_shard
from ecif.storage import Storage
from tests.scored import Counting
from tests.shards.tars import pack, sample
from tests.stages.outputs import FIT_KEY, SCORE_KEY, Output, parquet, scores_of

KEYS = [f"{n:03d}" for n in range(12)]
NAMES = [f"{n:05d}" for n in range(5)]
SHARDS = WriteSettings()
TAR = pack([member for key in KEYS for member in sample(key)])


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """Five shards of twelve pairs, ten scored; four have a table with languages beside them."""
    rng = random.Random(0)
    storage, layout, source = Storage(), Layout(str(tmp_path / "out")), tmp_path / "in"
    source.mkdir()
    statuses = ["ok"] * 10 + ["no_image", "bad_image"]
    for name in NAMES:
        (source / f"{name}.tar").write_bytes(TAR)
        values = [rng.choice([0.0, 1.0, 2.0, 3.0]) for _ in KEYS]
        storage.publish(layout.scores(SCORE_KEY, name), parquet(scores_of(TAR, name, values, statuses)))
        if name != "00003":
            beside = {"key": KEYS, "language": [rng.choice(["de", "en"]) for _ in KEYS], "status": ["success"] * 12}
            (source / f"{name}.parquet").write_bytes(parquet(pl.DataFrame(beside)))
    meta = {"settings": {}, "fit_key": FIT_KEY, "versions": {}}
    storage.publish_json(layout.score_meta(SCORE_KEY), meta)
    return Output(layout, storage, inventory.take(expand([str(source)], storage), layout, storage, {}))


POLICIES: list[dict[str, Any]] = [
    {"keep": "0.3"},
    {"keep_count": 7},
    {"drop": "0.4", "by": "language"},
    {"keep_count": 5, "by": "shard"},
    {"where": "language = 'de' and influence < 2"},
    {"where": "language is null", "unscored": "quarantine"},
    {"drop": "0.5", "rank_by": "-clip_score", "where": "influence >= 1", "dropped": "quarantine"},
    {"drop": "0.25", "control": 3, "by": "language", "unscored": "drop"},
    {"threshold": 2, "by": "language"},
    {"dedup": "language", "drop": "0.1", "dropped": "quarantine"},
]


@pytest.mark.parametrize(
    ("given", "form"),
    [(given, WriteSettings()) for given in POLICIES]
    + [(given, WriteSettings(write="columns")) for given in POLICIES[-3:]],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else value.write,
)
def test_what_was_planned_is_written_and_proved(output: Output, given: dict[str, Any], form: WriteSettings) -> None:
    policy = PolicySettings(**{"detector": "influence", **given})
    decision = plan(output.layout, output.storage, policy)
    assert load_decision(output.layout, output.storage, decision.key) == decision
    expected = outcome.of(output.layout, output.storage, decision)
    totals = write(output, decision, form)
    assert (expected.kept, expected.dropped, expected.quarantined) == (
        totals["keep"], totals["drop"], totals["quarantine"])  # fmt: skip
    assert expected.reasons.get("policy", 0) == decision.n_dropped
    found = verify(output.layout, output.storage, output.inventory)
    assert found.violations == ()
    assert found.samples == expected.pairs == 60


def write(output: Output, decision: Frozen, form: WriteSettings = SHARDS) -> Counter[str]:
    """Write all shards as a run does it; what became of the samples."""
    mark_applied(output.layout, output.storage, decision, form)
    totals: Counter[str] = Counter()
    for shard in output.inventory.shards:
        done = write_shard(shard, decision, output.layout, output.storage, form, Limits())
        totals.update({"keep": done.kept, "drop": done.dropped, "quarantine": done.quarantined})
    return totals


def ledger(output: Output) -> pl.DataFrame:
    """All rows, with the name of their shard."""
    tables = [
        pl.read_parquet(io.BytesIO(output.bytes_of(output.layout.ledger(name)))).with_columns(shard=pl.lit(name))
        for name in NAMES
    ]
    return pl.concat(tables)


def test_the_ledger_says_what_ranked(output: Output) -> None:
    policy = PolicySettings(drop="0.5", rank_by="-influence + 1")
    write(output, plan(output.layout, output.storage, policy))
    rows = ledger(output)
    assert set(rows["detector"]) == {"-influence + 1"}
    assert set(rows["score"]) <= {1.0, 0.0, -1.0, -2.0}
    assert rows.height == 25


def test_a_table_that_changed_after_the_plan_is_noticed_by_the_proof(output: Output) -> None:
    decision = plan(output.layout, output.storage, PolicySettings(detector="influence", where="language = 'de'"))
    write(output, decision)
    shard = output.inventory.shards[0]
    assert shard.parquet is not None
    table = pl.read_parquet(shard.parquet)
    Path(shard.parquet).write_bytes(parquet(table.with_columns(language=pl.lit("en"))))
    assert "ledger" in {one.what for one in verify(output.layout, output.storage, output.inventory).violations}


def test_the_lists_win_in_their_order(output: Output, tmp_path: Path) -> None:
    """denylist, allowlist, overrides, policy; and overrides are a policy of their own."""
    (tmp_path / "deny").write_text("key:000\n")
    (tmp_path / "allow").write_text("key:000\nkey:001\nkey:002\n")
    (tmp_path / "review.csv").write_text("uid,action\nkey:000,keep\nkey:001,drop\nkey:003,drop\nkey:004,keep\n")
    lists: dict[str, Any] = {
        "denylist": f"{tmp_path}/deny",
        "allowlist": f"{tmp_path}/allow",
        "overrides": f"{tmp_path}/review.csv",
    }
    decision = plan(output.layout, output.storage, PolicySettings(detector="influence", drop="1", **lists))
    assert decision.override_drop
    assert decision.override_keep
    counted = outcome.of(output.layout, output.storage, decision)
    write(output, decision)
    rows = ledger(output)
    assert set(rows.filter(pl.col("key") == "000")["reason"]) == {"denied:key"}
    assert set(rows.filter(pl.col("key") == "003")["reason"]) == {"override"}
    assert not set(rows["key"]) & {"001", "002", "004"}
    assert counted.reasons == dict(rows["reason"].value_counts(sort=True).iter_rows())
    done = manifest.read(output.layout, output.storage, "00000")
    assert done is not None
    assert (done.denied, done.spared) == (1, 3)
    assert verify(output.layout, output.storage, output.inventory).ok
    # The frozen copy counts, and another file is another decision.
    (tmp_path / "review.csv").write_text("key:003,drop\n")
    assert plan(output.layout, output.storage, PolicySettings(overrides=f"{tmp_path}/review.csv")).key != decision.key


def test_keys_of_decisions_without_new_settings_are_those_of_before() -> None:
    """Pinned: an output that was cleaned by an earlier version finds its decision again."""
    policy = PolicySettings(detector="influence", drop=Decimal("0.1"))
    old = {"version": ALGO_VERSION, "scores": "s", "detector": "influence", "drop": "0.1", "drop_count": None,
           "threshold": None, "dropped": "drop", "unscored": "keep", "denylist": "", "allowlist": ""}  # fmt: skip
    assert keys.decision_key("s", policy, {}) == keys.digest(old)
    new: list[dict[str, Any]] = [
        {"by": "shard"},
        {"control": 0},
        {"where": "influence < 0"},
        {"rank_by": "influence"},
        {"drop": None, "keep": Decimal(0)},
    ]
    found = {keys.decision_key("s", policy.model_copy(update=update), {}) for update in new}
    assert len(found | {keys.digest(old)}) == 6


def test_a_column_that_was_not_computed_is_named_with_the_option(output: Output) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"drop": "0.1", "detector": "vif"}, "--detector vif"),
        ({"where": "vif < 0"}, "--where or"),
    ]
    for given, option in refused:
        with pytest.raises(UsageError, match=f"{option}.* score again with --columns vif"):
            plan(output.layout, output.storage, PolicySettings(**given))


def test_planning_again_reads_no_model_and_scores_nothing(output: Output) -> None:
    """Every decision rests on the same score tables, whose bytes stay."""
    before = {name: output.bytes_of(output.layout.scores(SCORE_KEY, name)) for name in NAMES}
    made = {
        plan(output.layout, output.storage, PolicySettings(**{"detector": "influence", **given})).key
        for given in POLICIES
    }
    assert len(made) == len(POLICIES)
    assert before == {name: output.bytes_of(output.layout.scores(SCORE_KEY, name)) for name in NAMES}


def test_the_guard_stops_a_decision_that_takes_one_group(output: Output) -> None:
    policy = PolicySettings(detector="influence", where="shard = '00002' and influence >= 0")
    decision = plan(output.layout, output.storage, policy)
    found = outcome.of(output.layout, output.storage, decision)
    assert [(one.kind, one.name, one.gone) for one in found.outliers] == [("shard", "00002", 10)]
    assert found.top_shards == [("00002", 12, 10)]
    with pytest.raises(UsageError, match=r"shard 00002 loses 83.3% of 12 pairs.*--guard off"):
        outcome.check(output.layout, output.storage, decision, "on")
    outcome.check(output.layout, output.storage, decision, "off")
    # Who has gone on once is not asked again.
    mark_applied(output.layout, output.storage, decision, WriteSettings())
    outcome.check(output.layout, output.storage, decision, "on")


def test_what_a_person_denied_is_no_outlier(output: Output, tmp_path: Path) -> None:
    (tmp_path / "deny").write_text("".join(f"sample:00002/{key}\n" for key in KEYS))
    decision = plan(output.layout, output.storage, PolicySettings(denylist=f"{tmp_path}/deny"))
    found = outcome.of(output.layout, output.storage, decision)
    assert (found.dropped, found.outliers) == (12, [])


def test_an_outcome_is_kept_and_made_again_when_shards_arrive(output: Output) -> None:
    decision = plan(output.layout, output.storage, PolicySettings(detector="influence", drop="0.5", by="language"))
    first = outcome.of(output.layout, output.storage, decision)
    storage = Counting()
    assert outcome.of(output.layout, storage, decision) == first
    assert not any(url.endswith(".parquet") for url in storage.read)
    assert (first.by, first.n_groups, first.pairs, sum(first.rates)) == ("language", 3, 60, 5)
    text = "\n".join(first.lines())
    assert f"of 60 pairs in 5 shards {first.kept} stay and {60 - first.kept} go" in text
    assert "(no value): " in text
    source = Path(output.inventory.shards[0].url).parent
    (source / "00005.tar").write_bytes(TAR)
    inventory.take(expand([str(source)], output.storage), output.layout, output.storage, {})
    assert outcome.of(output.layout, output.storage, decision) == first
    output.storage.publish(output.layout.scores(SCORE_KEY, "00005"), parquet(scores_of(TAR, "00005")))
    assert outcome.of(output.layout, output.storage, decision).pairs == 72
