"""What becomes of a run that holds a slot of its deployment when the server restarts, by where the leases are kept.

    python -m bench.leases --work DIR [--only NAME]

A slot is a lease of 300 s, which its run renews every 225 s; both stand in Prefect's code and cannot be set, so a scene
takes ten minutes. A run that only waits is started on a Prefect server of its own (SQLite, a process worker); the
server gets SIGKILL and is started again. The table says how the run ended, when it gave its last sign, and how soon
there was a slot for the next one. Results are kept in the work directory; the same command goes on, and several may
play different scenes at the same time.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId, LogFilterLevel

from bench.matrix import Log, said, table
from tests.integration.field import asked, start, wait
from tests.integration.orchestra import ROOT, SCRIPTS, Orchestra, free_port

NAP_SECONDS = 520  # behind the end of the lease and the second renewal
LONGEST = 600.0
STORAGE = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"
HEAD = ("leases in", "event", "the server was away", "the run", "its last sign", "the next one began")


@flow(name="nap")
def nap(seconds: int, diary: str) -> None:
    """Wait, and touch a file every second, which tells when it was stopped."""
    for _ in range(seconds):
        time.sleep(1)
        Path(diary).touch()


@dataclass(frozen=True, slots=True)
class Scene:
    """An event.

    Attributes:
        leases: where the server keeps them.
        after: seconds from the beginning of the run to the death of the server. away: until it is started again.
        killed: the run is killed with the server.
    """

    leases: str
    after: float = 20.0
    away: float = 0.0
    killed: bool = False

    def said(self) -> str:
        """In words."""
        what = "the run is killed and the server restarted" if self.killed else "the server is restarted"
        away = f", away for {self.away:.0f} s" if self.away else ""
        return f"{what}, {self.after:.0f} s after the run began{away}"


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a scene.

    Attributes:
        state: the last one of the run. log: the first error in its log.
        away: seconds from the death of the server until it answered again. worked: until the last sign of the run.
        following: seconds from the end of the run, or from the return of the server, to the beginning of the next run.
            None: it did not begin.
    """

    state: str
    log: str
    away: int
    worked: int
    following: int | None


SCENES = (
    Scene("memory"),
    Scene("filesystem"),
    Scene("redis"),
    # Over the moment of the renewal; shorter and longer than the 75 s for which the lease lasts on.
    Scene("filesystem", after=215, away=20),
    Scene("filesystem", after=215, away=120),
    Scene("memory", killed=True),
    Scene("filesystem", killed=True),
)


def play(scene: Scene, folder: Path) -> Seen:
    """One scene, from the start of a server to the start of the next run."""
    folder.mkdir(parents=True, exist_ok=True)
    diary, other = folder / "diary", folder / "other"
    with ExitStack() as until:
        settings = {STORAGE: f"prefect.server.concurrency.lease_storage.{scene.leases}"}
        if scene.leases == "redis":
            port = until.enter_context(_redis(folder))
            settings = {STORAGE: "prefect_redis.lease_storage", "PREFECT_REDIS_MESSAGING_PORT": str(port)}
        orchestra = Orchestra(folder, server=settings)
        until.callback(orchestra.close)
        orchestra.start()
        orchestra.deploy(_declaration())
        worker = orchestra.worker("first", "naps", {})
        run = start(orchestra, "nap/nap", seconds=NAP_SECONDS, diary=str(diary))
        wait(orchestra, run, until="RUNNING")
        time.sleep(scene.after)
        if scene.killed:
            worker.kill()
        orchestra.kill()
        died, struck = time.monotonic(), time.time()
        time.sleep(scene.away)
        orchestra.start()
        away = time.monotonic() - died
        if scene.killed:
            orchestra.worker("second", "naps", {})
        else:
            wait(orchestra, run, seconds=NAP_SECONDS + LONGEST)
        asks, began = time.monotonic(), None
        following = start(orchestra, "nap/nap", seconds=1, diary=str(other))
        with suppress(TimeoutError):
            wait(orchestra, following, seconds=LONGEST, until="RUNNING")
            began = round(time.monotonic() - asks)
        state, log = asked(orchestra, run).state, _log(orchestra, run)
    worked = round(max(0.0, diary.stat().st_mtime - struck))
    return Seen((state.name if state else None) or "none", log, round(away), worked, began)


def _log(orchestra: Orchestra, run: UUID) -> str:
    errors = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]), level=LogFilterLevel(ge_=40))
    with orchestra.client() as client:
        found = client.read_logs(log_filter=errors)
    return found[0].message.splitlines()[0].partition(" Lease ID")[0] if found else ""


def _declaration() -> dict[str, Any]:
    deployment = {
        "name": "nap",
        "entrypoint": "bench/leases.py:nap",
        "work_pool": {"name": "naps", "job_variables": {}},
        "concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE", "grace_period_seconds": 300},
    }
    here = [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]
    return {"name": "leases", "pull": here, "deployments": [deployment]}


@contextmanager
def _redis(folder: Path) -> Iterator[int]:
    """Redis on a port of its own, while the block runs."""
    found, port = subprocess.check_output([SCRIPTS / "redis.sh"], text=True).strip(), free_port()
    command = [found, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    with (folder / "redis.log").open("wb") as output, subprocess.Popen(command, stdout=output) as server:
        try:
            yield port
        finally:
            server.terminate()


def rows(log: Log) -> Iterator[Sequence[object]]:
    """The table, a line for each scene."""
    for scene in SCENES:
        if seen := log.done.get(_name(scene)):
            began = seen["following"]
            late = f"not within {LONGEST:.0f} s" if began is None else f"after {began} s"
            yield scene.leases, scene.said(), f"{seen['away']} s", seen["state"], f"after {seen['worked']} s", late


def _name(scene: Scene) -> str:
    return f"{scene.leases}: {scene.said()}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default="", help="only scenes whose name contains this")
    given = parser.parse_args()
    # Whoever ends this ends the servers, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    log = Log(given.work / "leases.jsonl")
    for number, scene in enumerate(SCENES):
        name = _name(scene)
        if given.only in name and name not in log.done:
            log.add(name, asdict(play(scene, given.work.resolve() / str(number))))
            said(f"{name}: {log.done[name]}")
    print(table(HEAD, rows(log)))


if __name__ == "__main__":
    main()
