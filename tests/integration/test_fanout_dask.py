"""Fan-out on Dask: a scheduler and workers as processes of their own; one of the workers is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import MakeTar
from tests.integration.machine import Machine
from tests.integration.orchestra import free_port, plain_environment, tail
from tests.squares import SHARDS, files, lay_out
from tests.tiny import write_model

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

PATIENCE = 400.0
KINDS = (".tar", "ledger", "manifest", "scores")


def _made(out: Path) -> dict[str, bytes]:
    # The settings beside the scores name the output, which is another one.
    found = {name: data for name, (data, _) in files(out).items() if any(kind in name for kind in KINDS)}
    return {name: data for name, data in found.items() if not name.endswith("_meta.json")}


def test_a_cluster_makes_the_same_bytes_although_a_worker_dies(tmp_path: Path, make_tar: MakeTar) -> None:
    corpus = lay_out(tmp_path, write_model(tmp_path / "model"), make_tar)
    corpus.values["group_size"] = 1
    environment = plain_environment() | {"PREFECT_HOME": str(tmp_path / "home")}
    ecif = str(Path(sys.executable).with_name("ecif"))
    local = replace(corpus, values=corpus.values | {"out": str(tmp_path / "local")})
    both = [
        [ecif, "clean", *one.sources, *one.options(), "--drop", "0.25", "--json", "--fan-out"]
        for one in (local, corpus)
    ]
    done = subprocess.run([*both[0], "local"], env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr

    address = f"tcp://127.0.0.1:{free_port()}"
    dask = [sys.executable, "-m", "dask"]
    quiet = ["--no-dashboard"]
    machines = [
        Machine(
            [*dask, "scheduler", "--port", address.rpartition(":")[2], *quiet], environment, tmp_path / "s", tmp_path
        )
    ]
    try:
        machines += [
            Machine(
                [*dask, "worker", address, "--nthreads", "1", "--no-nanny", *quiet],
                environment,
                tmp_path / name,
                tmp_path,
            )
            for name in ("a", "b")
        ]
        parent = Machine([*both[1], "dask", "--dask", address], environment, tmp_path / "parent.log", tmp_path)
        machines.append(parent)
        scores = corpus.out / "_ecif/scores"
        deadline = time.monotonic() + PATIENCE
        while not list(scores.glob("*/*.parquet")):
            assert parent.process.poll() is None, tail(parent.log)
            assert time.monotonic() < deadline
            time.sleep(0.05)
        machines[1].kill()
        code = parent.process.wait(PATIENCE)
        said = tail(parent.log)
    finally:
        for machine in reversed(machines):
            machine.kill()
    assert code == 0, said
    outcome = json.loads(said[said.index("\n{") :])
    assert (outcome["scored"], outcome["written"], outcome["failed"]) == (SHARDS, SHARDS, [])
    assert _made(corpus.out) == _made(tmp_path / "local")
