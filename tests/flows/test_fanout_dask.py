"""Fan-out on Dask: a scheduler and workers in this process, reached by their address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dask import config
from distributed import LocalCluster
from prefect import flow

from ecif.errors import InputError, UsageError
from ecif.inventory import Shard
from flows.fanout import Fanned, fan_out
from tasks import ambient
from tasks.groups import Group, Job
from tasks.stages import Result, stage_task, through
from tests.squares import Notes

SHARDS = [Shard(f"{n:03d}", f"memory://in/{n:03d}.tar", n, f"{n}", 1, None, None) for n in range(5)]


@stage_task("dasked")
def dasked(job: Job, group: Group) -> Result:
    """Makes all outputs but those of 001, which is bad, and 003, which needs two attempts.

    It speaks through files only: Dask sends a copy of everything else.
    """
    root = Path(job.settings["out"])

    def work(shard: Shard) -> dict[str, Any]:
        with (root / f"{shard.name}.tries").open("a") as tries:
            tries.write("x")
        if shard.name == "001":
            raise InputError("is broken", url=shard.url)
        if shard.name != "003" or (root / "003.tries").stat().st_size > 1:
            (root / f"{shard.name}.out").touch()
        return {"shard": shard.name}

    return through(group.shards, work)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a scheduler with two workers, in threads."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address=None, host="127.0.0.1"
    ) as found:
        yield found.scheduler_address


def _fan(address: str, root: Path) -> tuple[Fanned, Notes]:
    job = Job({"out": str(root), "fan_out": "dask", "dask": address, "group_size": 2}, (), "fit", "score")
    notes = Notes()

    @flow(name="fan-dask")
    def around() -> Fanned:
        return fan_out(dasked, job, SHARDS, outputs=lambda: {file.stem for file in root.glob("*.out")}, workers=1)

    with ambient.during(ambient.Ambient(notes)):
        return around(), notes


def test_groups_run_on_the_cluster_and_outputs_decide(cluster: str, tmp_path: Path) -> None:
    fanned, notes = _fan(cluster, tmp_path)
    assert [item["shard"] for item in fanned.done] == ["000", "002", "004", "003"]
    assert [(item["shard"], item["passing"]) for item in fanned.failed] == [("001", False)]
    tries = {file.stem: file.stat().st_size for file in tmp_path.glob("*.tries")}
    assert tries == {"000": 1, "001": 1, "002": 1, "003": 2, "004": 1}
    assert notes.advanced == 6
    assert any("made again" in note for note in notes.notes)


@pytest.mark.parametrize(
    ("address", "said"), [("", "needs the address"), ("tcp://127.0.0.1:9", "no scheduler answers")]
)
def test_without_a_cluster_it_says_what_to_do(address: str, said: str, tmp_path: Path) -> None:
    with config.set({"distributed.comm.timeouts.connect": "1s"}), pytest.raises(UsageError, match=said):
        _fan(address, tmp_path)
