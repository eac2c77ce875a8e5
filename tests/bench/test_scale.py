"""The simulation looks like a corpus to the code that is measured, and the cost model says what it says it does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.scale import corpus, cost, driving, planning, standins
from ecif import inventory, manifest
from ecif.layout import Layout
from ecif.policy.settings import PolicySettings
from ecif.progress import Silent
from ecif.run import open_run
from ecif.settings import WriteSettings
from ecif.shards.tar import Limits
from ecif.sources import expand
from ecif.stages import score, write
from ecif.stages.plan import plan
from ecif.storage import Storage

if TYPE_CHECKING:
    from tests.conftest import Bucket, MakeTar


def test_the_steps_of_planning(tmp_path: Path) -> None:
    corpus.on_disk(tmp_path, 130)
    found = {name: step(str(tmp_path))() for name, step in planning.STEPS.items()}
    assert found == {
        "inventory, first time": 130,
        "inventory, nothing new": 130,
        "inventory, loaded": 130,
        "sample of the fit": 130,  # 20,000 pairs are more than 13,000
        "to do: wanted less done": 65,
        "groups and their keys": 3,
    }
    (shard, *_) = inventory.load(Layout(str(tmp_path / "out")), Storage()).shards
    assert (shard.size, shard.samples, shard.parquet) == (corpus.TAR_BYTES, corpus.PAIRS, None)
    assert sum(file.stat().st_blocks for file in (tmp_path / "raw").glob("*.tar")) == 0


def test_stand_ins_leave_what_orchestration_looks_for(tmp_path: Path) -> None:
    corpus.on_disk(tmp_path, 3)
    run = open_run([str(tmp_path / "raw")], corpus.settings(str(tmp_path), str(tmp_path / "out")))
    with standins.in_place() as spent:
        direction = score.load_direction(run, None)  # type: ignore[arg-type]
        for shard in run.inventory.shards:
            score.score_shard(run, None, shard, direction, Silent())  # type: ignore[arg-type]
        assert score.done(run) == {"0000000", "0000001", "0000002"}
        decision = plan(run.layout, run.storage, PolicySettings(drop="0.1"))
        assert (decision.n_rows, decision.n_dropped) == (300, 30)
        write.write_shard(run.inventory.shards[1], decision, run.layout, run.storage, WriteSettings(), Limits())
    assert manifest.done(run.layout, run.storage) == {"0000001"}
    assert spent.calls == {"score": 3, "write": 1}


@pytest.mark.parametrize("source", ["raw", "raw/{00000..00019}.tar"])
def test_a_corpus_is_listed_once(s3_bucket: Bucket, make_tar: MakeTar, source: str) -> None:
    storage = Storage(s3_bucket.options)
    for number in range(20):
        storage.publish(f"{s3_bucket.url}/raw/{number:05d}.tar", make_tar(2))
        storage.publish(f"{s3_bucket.url}/raw/{number:05d}_stats.json", b'{"successes": 2}')
    with driving.counted() as requests:
        expansion = expand([f"{s3_bucket.url}/{source}"], storage)
        taken = inventory.take(expansion, Layout(f"{s3_bucket.url}/clean"), storage, {})
    assert taken.total_samples() == 40
    # The sources, and the files of the inventory before and after.
    assert requests["list_objects_v2"] == 3
    assert requests["head_object"] <= 2  # of the file of the inventory


def test_costs() -> None:
    assumed = cost.Assumed()
    found = cost.cost(12.8e9, assumed)
    assert found["shards"] == 1_280_000
    assert found["device hours, scoring"] == pytest.approx(12.8e9 / assumed.rate / 3600)
    assert found["orchestration, share of scoring %"] == pytest.approx(0.5)
    money = [value for name, value in found.items() if name.startswith("money, ") and name != "money, in all"]
    assert found["money, in all"] == pytest.approx(sum(money))
    faster = cost.cost(12.8e9, replace(assumed, rate=2 * assumed.rate))
    assert faster["device hours, fit"] == pytest.approx(found["device hours, fit"] / 2)
    assert faster["requests that read, millions"] == found["requests that read, millions"]
    free = cost.cost(12.8e9, replace(assumed, device_hour=0, worker_hour=0, gb_month=0))
    assert free["money, in all"] == pytest.approx(found["money, requests"])


def test_variables_of_the_command_line() -> None:
    assert cost.assumed({"rate": 5.0, "pairs": [1.0], "copy": None}) == cost.Assumed(rate=5.0)
