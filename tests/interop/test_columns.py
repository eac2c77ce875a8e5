"""Scores and decisions beside tars that stay as they are."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ecif import ledger, lists, manifest
from ecif.errors import ConflictError, InputError
from ecif.interop.columns import publish_shard
from ecif.selection import Decision, choose
from ecif.shards.tar import Limits
from ecif.storage import Storage
from tests.conftest import MakeTar
from tests.interop.cleaned import KEPT, SAMPLES, key, members, shelved, table, uid
from tests.stages.outputs import DECISION_KEY, FIT_KEY, SCORE_KEY, Output, parquet, policy, scores_of, shelve

ADDED = ["ecif_status", "ecif_clip_score", "ecif_neg_clip_loss", "ecif_positive_influence", "ecif_negative_influence",
         "ecif_influence", "ecif_action", "ecif_reason"]  # fmt: skip
GONE = SAMPLES - KEPT


@pytest.fixture
def output(tmp_path: Path, make_tar: MakeTar) -> Output:
    return shelved(tmp_path, make_tar)


def _read(output: Output, shard: str = "00000000") -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(output.bytes_of(output.layout.parquet(shard))))


def _listed(output: Output, deny: str, allow: str = "") -> Decision:
    """A decision that drops half of the samples, with lists."""
    frozen = {"deny": lists.freeze(deny.encode(), "deny.txt"), "allow": lists.freeze(allow.encode(), "allow.txt")}
    for kind, data in frozen.items():
        output.storage.publish(output.layout.list_of(DECISION_KEY, kind), data)
    scores = {shard.name: output.layout.scores(SCORE_KEY, shard.name) for shard in output.inventory.shards}
    decided = choose(output.storage, scores, policy("0.5"), key=DECISION_KEY, score_key=SCORE_KEY, fit_key=FIT_KEY)
    digests: dict[str, Any] = {f"{kind}list": lists.digest(data) for kind, data in frozen.items()}
    return replace(decided, **digests)


def test_all_rows_and_columns_stay_and_the_scores_stand_behind(output: Output) -> None:
    shard = output.inventory.shards[0]
    before = Path(shard.url).read_bytes()
    done = publish_shard(shard, output.decide(policy("0.5")), output.layout, output.storage)
    found, original = _read(output), table(0)
    assert found.columns == [*original.columns, *ADDED]
    assert found.select(original.columns).equals(original)
    assert [found.schema[name] for name in ADDED] == [pl.String, *[pl.Float32] * 5, pl.String, pl.String]
    assert found["ecif_action"].to_list() == ["drop"] * GONE + ["keep"] * KEPT + [None]
    assert found["ecif_reason"].to_list() == ["policy"] * GONE + [None] * (KEPT + 1)
    assert found["ecif_influence"].to_list() == [*(float(n) for n in range(SAMPLES)), None]
    assert set(done.files) == {"parquet", "ledger", "scores"}
    assert (done.samples, done.kept, done.dropped) == (SAMPLES, KEPT, GONE)
    gone = ledger.read(output.bytes_of(output.layout.ledger("00000000")), "ledger")
    assert gone["key"].to_list() == [key(0, index) for index in range(GONE)]
    assert gone["sha256"].null_count() == GONE  # no tar was read
    assert Path(shard.url).read_bytes() == before
    assert not output.storage.exists(output.layout.tar("00000000"))


def test_again_is_the_same_and_another_decision_is_refused(output: Output) -> None:
    shard = output.inventory.shards[0]
    first = publish_shard(shard, output.decide(policy("0.5")), output.layout, output.storage)
    assert publish_shard(shard, output.decide(policy("0.5")), output.layout, output.storage) == first
    assert manifest.read(output.layout, output.storage, shard.name) == first
    with pytest.raises(ConflictError, match="written with decision dddddddddddd; use a new --out"):
        publish_shard(shard, output.decide(policy("0.3"), key="e" * 12), output.layout, output.storage)


def test_rows_in_another_order_than_the_tar(output: Output) -> None:
    shard = output.inventory.shards[0]
    assert shard.parquet is not None
    Path(shard.parquet).write_bytes(parquet(table(0).reverse()))
    publish_shard(shard, output.decide(policy("0.5")), output.layout, output.storage)
    found = _read(output)
    assert found["key"].to_list() == table(0).reverse()["key"].to_list()
    assert found["ecif_influence"].to_list() == [None, *(float(n) for n in reversed(range(SAMPLES)))]


def test_without_a_table_beside_the_tar(tmp_path: Path, make_tar: MakeTar) -> None:
    output = shelved(tmp_path, make_tar, sidecars=False)
    publish_shard(output.inventory.shards[0], output.decide(policy("0.5")), output.layout, output.storage)
    found = _read(output)
    assert found.columns == ["uid", "key", *ADDED]
    assert found["uid"].to_list() == [uid(key(0, index)) for index in range(SAMPLES)]


def test_scores_alone(output: Output) -> None:
    output.storage.publish_json(output.layout.score_meta(SCORE_KEY), {"fit_key": FIT_KEY, "settings": {}})
    shard = output.inventory.shards[0]
    done = publish_shard(shard, None, output.layout, output.storage)
    assert _read(output).columns == [*table(0).columns, *ADDED[:-2]]
    assert (done.kept, done.decision_key, done.score_key, done.fit_key) == (SAMPLES, "", SCORE_KEY, FIT_KEY)
    assert set(done.files) == {"parquet", "scores"}
    assert publish_shard(shard, None, output.layout, output.storage) == done
    with pytest.raises(ConflictError, match="written with no decision"):
        publish_shard(shard, output.decide(policy()), output.layout, output.storage)


def test_quarantined_and_repeated_samples(tmp_path: Path, make_tar: MakeTar) -> None:
    data = make_tar([*members(0)[:6], ("x.txt", b"no image"), *members(0)[:3]])
    output = shelve(tmp_path, {"00000": data}, sidecars=False)
    rows = {"key": [key(0, 0), key(0, 1), "x"], "status": ["success"] * 3}
    (tmp_path / "in" / "00000.parquet").write_bytes(parquet(pl.DataFrame(rows)))
    output = shelve(tmp_path, {"00000": data}, sidecars=False, out=str(tmp_path / "other"))
    assert output.shard.parquet is not None
    done = publish_shard(output.shard, output.decide(policy("0.5", "quarantine")), output.layout, output.storage)
    assert (done.kept, done.dropped, done.quarantined, done.unscored) == (1, 1, 2, 2)
    found = _read(output, "00000")
    # The repeated key has one row, that of the first sample.
    assert found["ecif_action"].to_list() == ["drop", "keep", "quarantine"]
    assert found["ecif_reason"].to_list() == ["policy", None, "unscored:no_image"]
    assert found["ecif_status"].to_list() == ["ok", "ok", "no_image"]


def test_lists_by_name_and_by_content(output: Output) -> None:
    decision = _listed(
        output, deny=f"url:https://example.org/{key(0, 5)}.png\nkey:{key(0, 4)}", allow=f"uid:{uid(key(0, 0))}"
    )
    done = publish_shard(output.inventory.shards[0], decision, output.layout, output.storage, Limits())
    found = _read(output)
    assert found["ecif_action"].to_list() == ["keep", "drop", "drop", "keep", "drop", "drop", None]
    assert found["ecif_reason"].to_list() == [None, "policy", "policy", None, "denied:key", "denied:url", None]
    assert (done.denied, done.spared, done.dropped) == (2, 1, 4)


def test_a_column_that_has_the_name_already(output: Output) -> None:
    shard = output.inventory.shards[0]
    assert shard.parquet is not None
    Path(shard.parquet).write_bytes(parquet(table(0).with_columns(ecif_action=pl.lit("keep"))))
    with pytest.raises(InputError, match="has the column ecif_action already; remove or rename it"):
        publish_shard(shard, output.decide(policy()), output.layout, output.storage)
    assert manifest.done(output.layout, output.storage) == set()


def test_a_tar_that_has_changed(output: Output, make_tar: MakeTar) -> None:
    shard = output.inventory.shards[0]
    Path(shard.url).write_bytes(make_tar(3))
    with pytest.raises(InputError, match="has changed since the inventory"):
        publish_shard(shard, output.decide(policy()), output.layout, output.storage)


def test_scores_of_another_shard(output: Output, make_tar: MakeTar) -> None:
    shard = output.inventory.shards[0]
    decision = output.decide(policy())
    other = scores_of(make_tar(members(1)), "00000001")
    url = output.layout.scores(SCORE_KEY, shard.name)
    Storage().publish(url, parquet(other), replace=True)
    with pytest.raises(InputError, match="are not the scores of shard 00000000"):
        publish_shard(shard, decision, output.layout, output.storage)
