"""`ecif clean` on the embedded engine, killed and run again: the only test that pays for engines of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from flows.clean import run_clean
from tests.squares import DERIVED, SHARDS, Corpus, Notes, files

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300.0


def _command(corpus: Corpus) -> list[str]:
    run = "from ecif.cli import main; main()"
    return [sys.executable, "-c", run, "clean", *corpus.sources, *corpus.options(), "--drop", "0.25", "--json"]


def _environment(home: Path) -> dict[str, str]:
    """Without what the session's server has put there: this run shall start an engine of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | {"PREFECT_HOME": str(home)}


def _children(parent: int) -> list[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(pid) for pid, ppid in (line.split() for line in listed.splitlines()) if int(ppid) == parent]


def _gone(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return state in ("", "Z")


def test_killed_and_run_again_gives_the_same_bytes(corpus: Corpus, tmp_path: Path) -> None:
    home = tmp_path / "home"
    scores = corpus.out / "_ecif/scores"
    killed = subprocess.Popen(
        _command(corpus), cwd=ROOT, env=_environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + PATIENCE
    while not list(scores.glob("*/*.parquet")) and time.monotonic() < deadline:
        assert killed.poll() is None
        time.sleep(0.005)
    servers = _children(killed.pid)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert servers
    while not all(map(_gone, servers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(map(_gone, servers)), "the engine outlived its parent"
    before = files(corpus.out)

    # With the database that the killed run left, in which it is running for ever.
    again = subprocess.run(
        _command(corpus), cwd=ROOT, env=_environment(home), capture_output=True, text=True, timeout=PATIENCE
    )

    assert again.returncode == 0, again.stderr
    outcome = json.loads(again.stdout)
    assert (outcome["written"], outcome["failed"]) == (SHARDS, [])
    after = files(corpus.out)
    lasting = {name: found for name, found in before.items() if not set(DERIVED) & set(Path(name).parts)}
    assert {name: after[name] for name in lasting} == lasting
    whole = tmp_path / "whole"
    run_clean(corpus.sources, corpus.settings(out=str(whole)), Notes())
    kinds = (".tar", "ledger", "manifest")
    expected = {name: content for name, (content, _) in files(whole).items() if any(kind in name for kind in kinds)}
    assert len(expected) == 3 * SHARDS
    assert {name: after[name][0] for name in expected} == expected
