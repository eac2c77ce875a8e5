"""The services of compose.yaml as processes: without a container engine, their commands and variables still run.

Everything is taken from the file; only host names, ports and folders are others. What containers add (users, networks,
limits) is not seen here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.integration.orchestra import SCRIPTS, free_port, postgres

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text("utf-8"))["services"]
GIVEN = {
    "PREFECT_AUTH": "somebody:a%20password: of/tests",
    "POSTGRES_PASSWORD": "postgres-password",
    "REDIS_PASSWORD": "redis-password",
    "S3_KEY": "key",
    "S3_SECRET": "secret",
    "ECIF_ALLOW": '["s3://bucket/"]',
}
SECONDS = 300.0  # until something must have happened that takes some ten seconds on a quiet machine


class Stack:
    """Services as processes, in a folder of their own."""

    def __init__(self, folder: Path, database: int) -> None:
        self.folder = folder
        self.redis, self.api, self.health = free_port(), free_port(), free_port()
        self._ports = {"PREFECT_SERVER_DATABASE_PORT": database, "PREFECT_REDIS_MESSAGING_PORT": self.redis}
        self._ports |= {"PREFECT_WORKER_WEBSERVER_PORT": self.health, "PREFECT_SERVER_API_PORT": self.api}
        # A copy of what the image holds: `prefect deploy` notes the directory it runs in.
        self.code = folder / "code"
        shutil.copytree(
            ROOT, self.code, ignore=lambda _, names: {n for n in names if n.startswith(".") or n == "tests"}
        )

    def text(self, value: str) -> str:
        """A value as compose would fill it in, with the names of its network made addresses."""
        value = re.sub(r"(?<!\$)\$\{(\w+)(?::[?-]([^}]*))?\}", lambda one: GIVEN.get(one[1], one[2] or ""), value)
        value = value.replace("$$", "$").replace("@redis:6379", f"@127.0.0.1:{self.redis}")
        return value.replace("//server:4200", f"//127.0.0.1:{self.api}").replace("0.0.0.0", "127.0.0.1")

    def environment(self, name: str) -> dict[str, str]:
        kept = {variable: value for variable, value in os.environ.items() if variable in ("LANG", "TMPDIR")}
        kept["PATH"] = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        kept |= {"HOME": str(self.folder), "PREFECT_HOME": str(self.folder / name), "OMP_NUM_THREADS": "1"}
        kept |= {variable: self.text(value) for variable, value in SERVICES[name].get("environment", {}).items()}
        hosts = {"PREFECT_SERVER_DATABASE_HOST", "PREFECT_REDIS_MESSAGING_HOST"} & set(kept)
        kept |= dict.fromkeys(hosts, "127.0.0.1")
        return kept | {variable: str(port) for variable, port in self._ports.items()}

    @contextmanager
    def running(self, name: str, *change: tuple[str, str]) -> Iterator[None]:
        """A service while the block runs; `change`: what its command says other than in a container."""
        command = [self.text(word) for word in SERVICES[name]["command"]]
        for old, new in change:
            command = [word.replace(old, new) for word in command]
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=self.environment(name), cwd=self.code, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            yield
            assert process.poll() is None, f"{name} has ended:\n{log.read_text()[-3000:]}"
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def ask(self, path: str, body: Any = None, password: str | None = GIVEN["PREFECT_AUTH"]) -> httpx.Response:
        user, _, rest = (password or ":").partition(":")
        auth = (user, rest) if password else None
        url = f"http://127.0.0.1:{self.api}/api{path}"
        return httpx.get(url, timeout=60) if body is None else httpx.post(url, json=body, auth=auth, timeout=60)


def until(found: Callable[[], Any]) -> Any:
    """What `found` returns as soon as it is something; a server that does not answer yet is nothing."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            if result := found():
                return result
        except httpx.TransportError:
            pass
        time.sleep(1)
    raise AssertionError("it did not happen in time")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """PostgreSQL, Redis and the server; the services come when the deployments are there."""
    redis = subprocess.run([SCRIPTS / "redis.sh"], capture_output=True, text=True, check=True).stdout.strip()
    with ExitStack() as started:
        database = started.enter_context(postgres(tmp_path))
        found = Stack(tmp_path, int(re.findall(r":(\d+)/", database.url)[0]))
        places = ("--dir /data", f"--dir {tmp_path} --port {found.redis} --bind 127.0.0.1"), ("redis-server", redis)
        started.enter_context(found.running("redis", *places))
        started.enter_context(found.running("server"))
        until(lambda: found.ask("/health").status_code == 200)
        yield found


def test_closed_deployed_scheduled_and_an_event_starts_its_run(stack: Stack) -> None:
    answers = [stack.ask("/flows/filter", {}, password) for password in (None, "somebody:else", GIVEN["PREFECT_AUTH"])]
    assert [answer.status_code for answer in answers] == [401, 401, 200]
    with stack.running("services"):
        _, _, script = SERVICES["deploy"]["command"]
        command = ["sh", "-ec", stack.text(script)]
        done = subprocess.run(command, env=stack.environment("deploy"), cwd=stack.code, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not any(secret in done.stdout + done.stderr for secret in ("a%20password", "redis-password"))
        pools = {pool["name"]: pool["type"] for pool in stack.ask("/work_pools/filter", {}).json()}
        assert pools == {"cpu": "process", "gpu": "process"}
        assert until(
            lambda: stack.ask("/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}).json()
        )
        with stack.running("worker-cpu"):
            health = f"http://127.0.0.1:{stack.health}/health"
            assert until(lambda: httpx.get(health, timeout=10).status_code == 200)
        event = {
            "id": str(uuid.uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": "ecif.shards.arrived",
            "resource": {"prefect.resource.id": "ecif.shards.corpus"},
            "payload": {"prefix": "s3://bucket/raw/new/"},
        }
        assert stack.ask("/events", [event]).status_code == 204
        wanted = {"deployments": {"name": {"any_": ["clean-on-arrival"]}}}
        (run,) = until(lambda: stack.ask("/flow_runs/filter", wanted).json())
        assert run["parameters"]["prefix"] == "s3://bucket/raw/new/"
    # What the server keeps of all that holds no secret of a worker.
    kept = json.dumps([stack.ask(f"/{what}/filter", {}).json() for what in ("deployments", "work_pools", "flow_runs")])
    assert not any(secret in kept for secret in ("a%20password", "redis-password", "postgres-password"))
