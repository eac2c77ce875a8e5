"""Prefect as a team runs it: a server with a password on PostgreSQL, process workers, the shipped deployments.

Everything is started by these functions on free loopback ports, with data of its own, and ended by process number.
The clocks of server and workers run faster than by default, because a test waits for them.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, StateType
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.integration.machine import Machine

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).parent / "servers"
USER, PASSWORD = "ecif", "a password of the tests"
AUTH = f"{USER}:{PASSWORD}"
START_SECONDS = 300.0  # importing the server takes up to half a minute on two slow cores
HEARTBEAT = "30"  # seconds; Prefect allows no less
_FAST = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "5",
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "5",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "5",
}


def plain_environment() -> dict[str, str]:
    """This process's variables without those by which Prefect, ECIF or AWS would find something else."""
    ours = ("PREFECT_", "ECIF_", "AWS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, **_FAST, "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgres(folder: Path) -> Iterator[Database]:
    """PostgreSQL with an empty database, while the block runs."""
    script, port = SCRIPTS / "postgres.sh", free_port()
    done = subprocess.run([script, folder, str(port)], capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"{script.name} could not start a server: {done.stderr[-4000:]}")
    try:
        yield Database(port)
    finally:
        subprocess.run([script, "--stop", folder], check=True, timeout=120)


class Database:
    """The database `prefect` of a PostgreSQL server on this machine."""

    def __init__(self, port: int) -> None:
        self._server = f"postgresql+asyncpg://prefect@127.0.0.1:{port}"
        self.url = f"{self._server}/prefect"

    def ask(self, query: str) -> list[Any]:
        """The rows that a statement returns."""
        return asyncio.run(_execute(self.url, query))

    def wipe(self) -> None:
        """An empty database in its place; whoever is connected loses the connection."""
        for statement in ("DROP DATABASE prefect WITH (FORCE)", "CREATE DATABASE prefect"):
            asyncio.run(_execute(f"{self._server}/postgres", statement))

    def size(self) -> dict[str, int]:
        """Bytes of the whole database as `bytes`, and rows of each table that has any."""
        tables = [row.relname for row in self.ask("SELECT relname FROM pg_stat_user_tables")]
        rows = {name: self.ask(f'SELECT count(*) AS n FROM "{name}"')[0].n for name in sorted(tables)}
        total = self.ask("SELECT pg_database_size('prefect') AS n")[0].n
        return {"bytes": total, **{name: count for name, count in rows.items() if count}}


async def _execute(url: str, statement: str) -> list[Any]:
    # Outside of a transaction, in which no database can be made.
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            found = await connection.execute(text(statement))
            return list(found.all()) if found.returns_rows else []
    finally:
        await engine.dispose()


class Orchestra:
    """A Prefect server and its workers.

    Args:
        folder: home, logs and temporary files. database: URL; empty: SQLite in the folder.
        server: variables of the server that differ from those set here.

    Attributes:
        pools: names of the work pools, once there are deployments.
    """

    def __init__(self, folder: Path, database: str = "", server: Mapping[str, str] = {}) -> None:
        self.folder, self.port = folder, free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.environment = plain_environment() | {
            "PREFECT_API_URL": self.api,
            "PREFECT_API_AUTH_STRING": AUTH,
            "PREFECT_HOME": str(folder / "client"),
        }
        self._database = {"PREFECT_API_DATABASE_CONNECTION_URL": database} if database else {}
        self._settings = dict(server)
        self._server: Machine | None = None
        self.workers: list[Machine] = []
        self.pools: list[str] = []

    def start(self) -> None:
        """Start the server and wait until it answers."""
        environment = plain_environment() | self._database
        environment |= {
            "PREFECT_HOME": str(self.folder / "server"),
            "PREFECT_SERVER_API_AUTH_STRING": AUTH,
            "PREFECT_API_AUTH_STRING": AUTH,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # A run whose slot the server has forgotten ends itself; in memory, leases do not survive a restart.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            **self._settings,
        }
        command = [sys.executable, "-m", "prefect", "server", "start", "--no-ui", "--host", "127.0.0.1"]
        self._server = Machine([*command, "--port", str(self.port)], environment, self.folder / "server.log", ROOT)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._server.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the Prefect server did not start:\n{tail(self._server.log)}")
            time.sleep(0.5)

    def kill(self) -> None:
        """SIGKILL to the server."""
        if self._server is not None:
            self._server.kill()

    def memory(self) -> int:
        """Bytes of memory that the server holds."""
        if self._server is None:
            return 0
        pages = Path(f"/proc/{self._server.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        """End the workers with their runs, and the server."""
        for worker in self.workers:
            worker.kill()
        if self._server is not None:
            self._server.stop()

    def client(self) -> SyncPrefectClient:
        """A client with the password."""
        return SyncPrefectClient(api=self.api, auth_string=AUTH)

    def under_way(self) -> list[FlowRun]:
        """Runs that wait for their turn or work; not those that a schedule has planned for later."""
        soon = datetime.now(UTC) + timedelta(seconds=10)
        kinds = [kind for kind in StateType if kind not in TERMINAL_STATES]
        wanted = FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=kinds)),
            expected_start_time=FlowRunFilterExpectedStartTime(before_=soon),
        )
        with self.client() as client:
            return client.read_flow_runs(flow_run_filter=wanted, limit=200)

    def worker(self, name: str, pool: str, environment: Mapping[str, str], limit: int = 4) -> Machine:
        """Start a process worker with a home of its own, as on a machine of its own, and wait until it listens."""
        variables = {**self.environment, **environment, "PREFECT_HOME": str(self.folder / name)}
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", name]
        log = self.folder / f"{name}.log"
        machine = Machine([*command, "--limit", str(limit)], variables, log, ROOT)
        self.workers.append(machine)
        deadline = time.monotonic() + START_SECONDS
        while f"Worker '{name}' started" not in log.read_text("utf-8", "replace"):
            if machine.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the worker did not start:\n{tail(log)}")
            time.sleep(0.2)
        return machine

    def prefect(self, *arguments: str) -> str:
        """Run Prefect's command line in the repository; returns what it printed."""
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        # prefect.yaml takes the directory of the flows from PWD.
        environment = {**self.environment, "PWD": str(ROOT)}
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise RuntimeError(f"prefect {' '.join(arguments)}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout

    def deploy(self, declared: Mapping[str, Any]) -> None:
        """Make the work pools, and `prefect deploy --all`; see `declaration`."""
        file = self.folder / "prefect.yaml"
        file.write_text(yaml.safe_dump(declared, sort_keys=False), "utf-8")
        self.pools = sorted({deployment["work_pool"]["name"] for deployment in declared["deployments"]})
        for pool in self.pools:
            self.prefect("work-pool", "create", "--type", "process", "--overwrite", pool)
        self.prefect("deploy", "--all", "--prefect-file", str(file))

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.api}/health", auth=(USER, PASSWORD), timeout=5).status_code == 200
        except httpx.TransportError:
            return False


def declaration(sources: Sequence[str], settings: Mapping[str, Any], crons: Mapping[str, str] = {}) -> dict[str, Any]:
    """The repository's prefect.yaml with these sources and settings instead of its own, and quicker heartbeats.

    Args:
        crons: other schedules, by the name of the deployment.
    """
    declared: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))
    for deployment in declared["deployments"]:
        parameters = dict(deployment.get("parameters", {}))
        given = {"sources": list(sources), "settings": settings, "outs": [settings["out"]]}
        if "settings" in parameters:
            given["settings"] = {**parameters["settings"], **settings}
        deployment["parameters"] = parameters | {name: given[name] for name in given if name in parameters}
        deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = HEARTBEAT
        for schedule in deployment.get("schedules", []):
            schedule["cron"] = crons.get(deployment["name"], schedule["cron"])
    return declared


def tail(log: Path, size: int = 4000) -> str:
    """The end of a log."""
    return log.read_text("utf-8", "replace")[-size:]
