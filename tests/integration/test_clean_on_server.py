"""`ecif clean` against a Prefect server of its own: the run, its tasks and its artifacts are there afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType

from tests.conftest import MakeTar
from tests.squares import SHARDS, lay_out
from tests.tiny import write_model

pytestmark = [pytest.mark.integration, pytest.mark.smoke]


def test_artifacts_of_a_run_are_on_the_server(prefect_server: str, tmp_path: Path, make_tar: MakeTar) -> None:
    corpus = lay_out(tmp_path, write_model(tmp_path / "model"), make_tar)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_API_URL": prefect_server, "PREFECT_HOME": str(tmp_path / "home")}
    with SyncPrefectClient(api=prefect_server) as client:
        before = {run.id for run in client.read_flow_runs()}  # of other tests on the same server
    ecif = str(Path(sys.executable).with_name("ecif"))
    arguments = ["clean", *corpus.sources, *corpus.options(), "--drop", "0.25", "--json"]
    done = subprocess.run([ecif, *arguments], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["written"] == SHARDS

    with SyncPrefectClient(api=prefect_server) as client:
        (run,) = (run for run in client.read_flow_runs() if run.id not in before and not run.auto_scheduled)
        assert run.state is not None
        assert run.state.type is StateType.COMPLETED
        of_it = {"artifacts": {"flow_run_id": {"any_": [str(run.id)]}}}
        artifacts = client.request("POST", "/artifacts/filter", json=of_it).json()
    for artifact in artifacts:
        print(artifact["type"], artifact["key"], str(artifact["data"])[:2000])
    kinds = [artifact["type"] for artifact in artifacts]
    assert {"markdown", "table", "progress"} <= set(kinds)
    (page,) = (artifact["data"] for artifact in artifacts if artifact["key"] == "ecif-outcome")
    assert f"{outcome['dropped']:,}" in page
    assert all(float(a["data"]) == 100.0 for a in artifacts if a["type"] == "progress")
