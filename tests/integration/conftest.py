"""Real servers on free loopback ports, each with data of its own: Prefect, Ceph's gateway, Swift's S3 API, moto.

A server of yours instead of a started one: `ECIF_TEST_CEPH=http://127.0.0.1:9000` or `ECIF_TEST_SWIFT=...`, with keys
in `ECIF_TEST_CEPH_KEYS` (`key secret other-key other-secret`, the other tenant may do nothing in the first one's
buckets; default: those of `servers/*.sh`). What cannot be started is an error, never a skipped test.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser

from bench.places import Server, remove_bucket
from bench.scenes import Stage, staged
from bench.trial import Nursery
from bench.world import write_model
from tests.conftest import MakeTar
from tests.integration import hostile
from tests.integration.browser import browser as running

START_SECONDS = 300  # importing the server takes up to half a minute on two slow cores
SCRIPTS = Path(__file__).parent / "servers"
KEYS = {
    "ceph": "pipeline pipeline-secret reader reader-secret",
    "swift": "test:pipeline pipeline-secret test:reader reader-secret",
}


@dataclass(frozen=True, slots=True)
class Store:
    """A running S3 server: its owner's keys, and those of a stranger."""

    name: str
    server: Server
    other: Server


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's browser."""
    with running() as started:
        yield started


@pytest.fixture(scope="session")
def report_output(tmp_path_factory: pytest.TempPathFactory, make_tar: MakeTar) -> Path:
    """The root of an output with a report, over a corpus with hostile captions and names."""
    return hostile.output(tmp_path_factory.mktemp("report"), make_tar)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API's URL of a server with SQLite; it is ended, with the services it runs, when the tests are done."""
    home = tmp_path_factory.mktemp("prefect-server")
    log = home / "server.log"
    port = _free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(home), "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    environment |= {"PREFECT_SERVER_API_HOST": "127.0.0.1", "PREFECT_SERVER_API_PORT": str(port)}
    command = [sys.executable, "-m", "prefect", "server", "start", "--no-ui"]
    api = f"http://127.0.0.1:{port}/api"
    with log.open("wb") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait(server, api, log)
        yield api
    finally:
        server.terminate()
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(server: subprocess.Popen[bytes], api: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"the server ended with exit code {server.returncode}:\n{log.read_text()[-4000:]}")
        try:
            if httpx.get(f"{api}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail(f"the server did not answer within {START_SECONDS} s:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Ceph RADOS Gateway."""
    yield from _store("ceph", tmp_path_factory.mktemp("ceph"))


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """OpenStack Swift with s3api, whose conditional PUT is not atomic."""
    yield from _store("swift", tmp_path_factory.mktemp("swift"))


@pytest.fixture(params=["ceph", "swift"])
def store(request: pytest.FixtureRequest) -> Store:
    """Each of the real servers."""
    found: Store = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def new_bucket() -> Iterator[Callable[[Server], str]]:
    """`new_bucket(server)`: the name of an empty bucket, which is removed with all it holds after the test."""
    made: list[tuple[Server, str]] = []

    def make(server: Server) -> str:
        name = f"ecif-{uuid.uuid4().hex[:12]}"
        server.client().create_bucket(Bucket=name)
        made.append((server, name))
        return name

    yield make
    for server, name in made:
        remove_bucket(server, name)


@pytest.fixture(scope="session")
def moto(s3_endpoint: str) -> Server:
    """moto as a server; it accepts every key."""
    return Server(s3_endpoint, "testing", "testing")


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Nursery:
    """Processes that have imported everything."""
    return Nursery(tmp_path_factory.mktemp("trials"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Config and weights of a tiny model."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def stage(ceph: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A Prefect server on PostgreSQL with a password, and a corpus on Ceph; the deployments are there."""
    with staged(tmp_path_factory.mktemp("orchestra"), ceph.server, f"ecif-{uuid.uuid4().hex[:12]}") as found:
        yield found


@pytest.fixture(scope="session")
def rehearsed(stage: Stage) -> Stage:
    """The same, and what a run that is left alone makes of the corpus."""
    stage.rehearse()
    return stage


def _store(name: str, folder: Path) -> Iterator[Store]:
    key, secret, other_key, other_secret = os.environ.get(f"ECIF_TEST_{name.upper()}_KEYS", KEYS[name]).split()
    endpoint = os.environ.get(f"ECIF_TEST_{name.upper()}")
    script = SCRIPTS / f"{name}.sh"
    started = endpoint is None
    if endpoint is None:
        # Below the range from which the system hands out ports, which the server's own connections take.
        port = _free_ports(4)
        endpoint = f"http://127.0.0.1:{port}"
        environment = {**os.environ, "PYTHON": sys.executable}
        done = subprocess.run([script, folder, str(port)], env=environment, capture_output=True, text=True, timeout=900)
        if done.returncode:
            pytest.fail(f"{script.name} could not start a server:\n{done.stderr[-4000:]}")
    try:
        yield Store(name, Server(endpoint, key, secret), Server(endpoint, other_key, other_secret))
    finally:
        if started:
            subprocess.run([script, "--stop", folder], check=True, timeout=120)


def _free_ports(count: int) -> int:
    """The first of several free ports in a row."""
    for first in range(20_000 + os.getpid() % 5_000, 32_000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise RuntimeError("no free ports between 20000 and 32000")
