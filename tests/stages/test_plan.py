"""A decision is made once, from all shards, and then holds."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from ecif import inventory, keys
from ecif.errors import ConflictError, InputError, MissingFileError, UsageError
from ecif.layout import Layout
from ecif.policy.settings import PolicySettings
from ecif.settings import Settings, WriteSettings
from ecif.sources import expand
from ecif.stages.plan import applied, load_decision, mark_applied, plan
from ecif.stages.scored import only_score_key, scored_shards
from ecif.storage import Storage
from tests.conftest import MakeTar
from tests.scored import Counting

SCORES, FIT = "0123456789ab", "ba9876543210"
FORM = WriteSettings()
TENTH = PolicySettings(detector="influence", drop=Decimal("0.1"))


@dataclass
class Output:
    """An output with an inventory, to which scored shards can be added."""

    layout: Layout
    storage: Storage
    source: Path
    make_tar: MakeTar

    def add(self, name: str, values: list[float], score_key: str = SCORES, scored: bool = True) -> None:
        self.source.mkdir(exist_ok=True)
        tar = self.source / f"{name}.tar"
        if not tar.exists():
            tar.write_bytes(self.make_tar(len(values)))
        inventory.take(expand([str(self.source)], self.storage), self.layout, self.storage, {})
        meta = {"settings": {}, "fit_key": FIT, "versions": {}}
        self.storage.publish_json(self.layout.score_meta(score_key), meta)
        if scored:
            self.score(name, values, score_key)

    def score(self, name: str, values: list[float], score_key: str = SCORES) -> None:
        n = len(values)
        frame = pl.DataFrame(
            {
                "uid": [f"{name}{i:04d}" for i in range(n)],
                "key": [f"{i:09d}" for i in range(n)],
                "shard": [name] * n,
                "index": pl.Series(range(n), dtype=pl.UInt32),
                "status": ["ok"] * n,
                "influence": pl.Series(values, dtype=pl.Float32),
            }
        )
        target = io.BytesIO()
        frame.write_parquet(target)
        self.storage.publish(self.layout.scores(score_key, name), target.getvalue())


@pytest.fixture
def output(tmp_path: Path, make_tar: MakeTar) -> Output:
    return Output(Layout(str(tmp_path / "out")), Storage(), tmp_path / "in", make_tar)


def test_a_decision_covers_all_shards_and_is_written(output: Output) -> None:
    output.add("00000", [float(i) for i in range(15)])
    output.add("00001", [-1.0, 50.0, 60.0, 70.0, 80.0])
    decision = plan(output.layout, output.storage, TENTH)
    assert decision.key == keys.decision_key(SCORES, TENTH, {})
    assert (decision.score_key, decision.fit_key, decision.shards) == (SCORES, FIT, 2)
    assert (decision.n_ok, decision.n_dropped) == (20, 2)
    assert (decision.threshold, decision.tie) == (0.0, ("000000000", "000000000", "00000", 0))
    assert output.storage.read_json(output.layout.decision(decision.key)) == decision.to_json()
    assert load_decision(output.layout, output.storage) == decision
    assert load_decision(output.layout, output.storage, decision.key) == decision


def test_a_second_plan_returns_the_frozen_decision_also_after_arrivals(output: Output) -> None:
    output.add("00000", [1.0] * 10)
    first = plan(output.layout, output.storage, TENTH)
    output.add("00001", [0.0] * 100, scored=False)
    assert plan(output.layout, output.storage, TENTH) == first
    with pytest.raises(UsageError, match="1 of 2 shards have no scores"):
        plan(output.layout, output.storage, PolicySettings(detector="influence", drop=Decimal("0.2")))


def test_the_tables_of_a_corpus_that_fits_are_read_once_and_that_of_the_tie_again(output: Output) -> None:
    output.add("00000", [float(i) for i in range(15)])
    output.add("00001", [-1.0, 50.0, 60.0, 70.0, 80.0])
    storage = Counting()
    decision = plan(output.layout, storage, TENTH)
    assert decision.threshold == 0.0
    urls = {name: output.layout.scores(SCORES, name) for name in ("00000", "00001")}
    assert storage.times(urls) == {"00000": 2, "00001": 1}


def test_shards_without_scores_stop_the_plan_unless_they_were_set_aside(output: Output) -> None:
    output.add("00000", [1.0] * 10)
    output.add("00001", [1.0] * 10, scored=False)
    output.add("00002", [1.0] * 10, scored=False)
    with pytest.raises(
        UsageError, match="2 of 3 shards have no scores 0123456789ab yet, the first is 00001; run score"
    ):
        plan(output.layout, output.storage, TENTH)
    with pytest.raises(UsageError, match=r"1 of 3 shards .* the first is 00002"):
        plan(output.layout, output.storage, TENTH, set_aside={"00001"})
    # A shard that was set aside, but has scores, counts.
    decision = plan(output.layout, output.storage, TENTH, set_aside={"00000", "00001", "00002"})
    assert (decision.shards, decision.n_ok) == (1, 10)


def test_names_of_scored_shards_keep_their_directories(output: Output) -> None:
    output.add("00000", [1.0])
    output.score("source/part/00000", [1.0])
    assert scored_shards(output.layout, output.storage, SCORES) == {"00000", "source/part/00000"}


def test_scores_are_named_when_there_are_several(output: Output) -> None:
    with pytest.raises(UsageError, match="holds no scores yet; run score first"):
        only_score_key(output.layout, output.storage)
    output.add("00000", [1.0])
    assert only_score_key(output.layout, output.storage) == SCORES
    output.add("00000", [2.0], score_key="ffffffffffff")
    with pytest.raises(UsageError, match="holds several: 0123456789ab, ffffffffffff; name one with --scores"):
        plan(output.layout, output.storage, TENTH)
    assert plan(output.layout, output.storage, TENTH, "ffffffffffff").score_key == "ffffffffffff"
    with pytest.raises(UsageError, match="no scores"):
        plan(output.layout, output.storage, TENTH, "eeeeeeeeeeee")


def test_a_policy_is_needed_and_other_settings_do_no_harm(output: Output) -> None:
    output.add("00000", [1.0, 2.0])
    with pytest.raises(UsageError, match="needs a policy"):
        plan(output.layout, output.storage, PolicySettings())
    everything = Settings(drop=Decimal("0.5"), unscored="drop", micro_batch=3, detector="influence")
    decision = plan(output.layout, output.storage, everything)
    assert (decision.policy, decision.unscored) == ({"drop": "0.5"}, "drop")


def test_decisions_are_named_when_there_are_several(output: Output) -> None:
    output.add("00000", [1.0, 2.0, 3.0])
    with pytest.raises(UsageError, match="holds no decision yet; run plan first"):
        load_decision(output.layout, output.storage)
    one = plan(output.layout, output.storage, TENTH)
    two = plan(output.layout, output.storage, PolicySettings(detector="influence", drop_count=1))
    with pytest.raises(UsageError, match=f"several: {min(one.key, two.key)}, .*name one with --decision"):
        load_decision(output.layout, output.storage)
    with pytest.raises(UsageError, match="no decision ffffffffffff"):
        load_decision(output.layout, output.storage, "ffffffffffff")
    mark_applied(output.layout, output.storage, two, FORM)
    assert load_decision(output.layout, output.storage) == two


def test_an_output_holds_one_decision(output: Output) -> None:
    output.add("00000", [1.0, 2.0, 3.0])
    one = plan(output.layout, output.storage, TENTH)
    two = plan(output.layout, output.storage, PolicySettings(detector="influence", drop_count=1))
    mark_applied(output.layout, output.storage, one, FORM)
    mark_applied(output.layout, output.storage, one, FORM)
    with pytest.raises(ConflictError, match=f"holds the decision {one.key}, not {two.key}; .*choose a new --out"):
        mark_applied(output.layout, output.storage, two, FORM)
    for other in (WriteSettings(repack=5), WriteSettings(write="columns")):
        with pytest.raises(ConflictError, match=r"is written as shards one to one, not as (shards of 5|columns)"):
            mark_applied(output.layout, output.storage, one, other)
    held = applied(output.layout, output.storage)
    assert held is not None
    assert (held.decision, held.write, held.repack) == (one.key, "shards", None)


def test_what_was_applied_is_a_content_and_not_only_a_key(output: Output) -> None:
    """A store without atomic creation may have let another planner replace the decision."""
    output.add("00000", [1.0, 2.0, 3.0])
    decision = plan(output.layout, output.storage, TENTH)
    mark_applied(output.layout, output.storage, decision, FORM)
    other = replace(decision, threshold=2.5)
    output.storage.publish_json(output.layout.decision(decision.key), other.to_json(), replace=True)
    with pytest.raises(InputError, match="renamed or edited"):
        load_decision(output.layout, output.storage)
    with pytest.raises(ConflictError, match="one output holds one decision"):
        mark_applied(output.layout, output.storage, other, FORM)


def test_lists_are_frozen_beside_the_decision(output: Output, tmp_path: Path) -> None:
    output.add("00000", [1.0, 2.0, 3.0])
    (tmp_path / "deny.txt").write_text("key:b\nkey:a\n# why\nkey:a\n")
    (tmp_path / "same.txt").write_text("a\nb\n")
    by = TENTH.model_copy
    decision = plan(output.layout, output.storage, by(update={"denylist": str(tmp_path / "deny.txt")}))
    frozen = output.storage.read_bytes(output.layout.list_of(decision.key, "deny"))
    assert frozen == b"key:a\nkey:b\n"
    assert (decision.denylist, decision.allowlist) == (hashlib.sha256(frozen).hexdigest(), "")
    # The content counts, not the path; and a denylist is a policy of its own.
    assert plan(output.layout, output.storage, by(update={"denylist": str(tmp_path / "same.txt")})) == decision
    assert plan(output.layout, output.storage, TENTH).key != decision.key
    alone = plan(
        output.layout, output.storage, PolicySettings(denylist=str(tmp_path / "same.txt"), detector="influence")
    )
    assert (alone.n_dropped, alone.threshold) == (0, None)
    with pytest.raises(MissingFileError, match=r"none\.txt"):
        plan(output.layout, output.storage, by(update={"allowlist": str(tmp_path / "none.txt")}))


def test_of_two_planners_at_once_the_first_counts(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one has planned between the look for a decision and the writing of ours, from fewer shards."""
    output.add("00000", [1.0] * 10)
    first = plan(output.layout, output.storage, TENTH)
    output.add("00001", [0.0] * 10)
    exists = Storage.exists
    asked: list[str] = []

    def absent_at_first(self: Storage, url: str) -> bool:
        asked.append(url)
        return len(asked) > 1 and exists(self, url)

    monkeypatch.setattr(Storage, "exists", absent_at_first)
    assert plan(output.layout, output.storage, TENTH) == first
    assert asked[0] == output.layout.decision(first.key)


@pytest.mark.parametrize("content", ['{"decision": 1}', "[]"])
def test_broken_markers_are_named(output: Output, content: str) -> None:
    output.add("00000", [1.0])
    output.storage.publish(output.layout.applied(), content.encode())
    with pytest.raises(InputError, match=r"key\.json: does not name"):
        load_decision(output.layout, output.storage)


def test_broken_scores_and_decisions_are_named(output: Output) -> None:
    output.add("00000", [1.0])
    decision = plan(output.layout, output.storage, TENTH)
    renamed = output.layout.decision("ffffffffffff")
    output.storage.publish_json(renamed, decision.to_json())
    with pytest.raises(InputError, match=r"ffffffffffff\.json: this file holds the decision"):
        load_decision(output.layout, output.storage, "ffffffffffff")
    output.storage.publish_json(output.layout.score_meta("eeeeeeeeeeee"), {})
    output.score("00000", [1.0], "eeeeeeeeeeee")
    with pytest.raises(InputError, match=r"_meta\.json: does not name the fit"):
        plan(output.layout, output.storage, TENTH, "eeeeeeeeeeee")
