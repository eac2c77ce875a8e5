"""The shipped automations on a full server: a killed run becomes crashed, others are left alone, people hear of it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Pending

from flows import automations

pytestmark = pytest.mark.integration

# Prefect sends heartbeats every 30 s at most, so this is the shortest silence that a living run does not show.
SILENCE = timedelta(seconds=45)
STARTUP = timedelta(seconds=10)
APPEARS_SECONDS = 180

# A run that tells its id, and ends when its input does, with shards set aside or not at all.
RUN = """
import sys
from prefect import flow, tags
from prefect.runtime import flow_run
from prefect.states import Completed

@flow
def corpus():
    print(flow_run.id, flush=True)
    sys.stdin.read()
    return Completed(name="ShardsFailed", message="1 shard failed")

with tags("ecif", "ecif-alert"):
    corpus()
"""


@contextmanager
def _running(api: str, folder: Path) -> Iterator[tuple[UUID, subprocess.Popen[str]]]:
    """A run of its own process, which has sent its first heartbeat."""
    script = folder / "corpus.py"
    script.write_text(RUN)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_API_URL": api, "PREFECT_HOME": str(folder), "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    process = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        run = UUID(process.stdout.readline().strip())
        _until(lambda: _events(api, run, "prefect.flow-run.heartbeat"), "a heartbeat")
        yield run, process
    finally:
        process.kill()
        process.wait()


def _events(api: str, run: UUID, name: str) -> int:
    wanted = {"event": {"name": [name]}, "any_resource": {"id": [f"prefect.flow-run.{run}"]}}
    with SyncPrefectClient(api=api) as client:
        found: int = client.request("POST", "/events/filter", json={"filter": wanted}).json()["total"]
    return found


def _read(api: str, run: UUID) -> FlowRun:
    with SyncPrefectClient(api=api) as client:
        return client.read_flow_run(run)


def _until(seen: object, what: str) -> None:
    deadline = time.monotonic() + APPEARS_SECONDS
    assert callable(seen)
    while not seen():
        assert time.monotonic() < deadline, f"{what} did not appear within {APPEARS_SECONDS} s"
        time.sleep(0.5)


@pytest.fixture
def heard() -> Iterator[tuple[str, list[str]]]:
    """A place for notifications: its URL, and the bodies it was sent."""
    bodies: list[str] = []

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Ear)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()


def _block(client: SyncPrefectClient, url: str) -> UUID:
    """A notification block of the server's, as a person makes one in the UI."""
    client.request("POST", "/block_types/install_system_block_types")
    kind = client.read_block_type_by_slug("custom-webhook")
    schemas = client.request(
        "POST", "/block_schemas/filter", json={"block_schemas": {"block_type_id": {"any_": [str(kind.id)]}}}
    ).json()
    data = {"name": "ear", "url": url, "method": "POST", "json_data": {"text": "{{subject}}: {{body}}"}}
    document = {"name": "ecif", "block_type_id": str(kind.id), "block_schema_id": schemas[0]["id"], "data": data}
    client.request("POST", "/block_documents/", json=document)
    return automations.notification_block(client, "custom-webhook/ecif")


def test_a_killed_run_becomes_crashed_and_no_other(
    prefect_server: str, tmp_path: Path, heard: tuple[str, list[str]]
) -> None:
    url, bodies = heard
    with SyncPrefectClient(api=prefect_server) as client:
        automations.apply(client, automations.shipped(_block(client, url), silence=SILENCE, startup=STARTUP))
    with _running(prefect_server, tmp_path) as (ended, process):
        process.communicate()
    # Both are older than the run that is killed: when that one is noticed, they would have been, too.
    with _running(prefect_server, tmp_path) as (alive, _), _running(prefect_server, tmp_path) as (killed, process):
        process.kill()
        process.wait()
        _until(lambda: _type(_read(prefect_server, killed)) is not StateType.RUNNING, "another state than RUNNING")
        crashed, living, done = (_read(prefect_server, run) for run in (killed, alive, ended))
    assert _type(crashed) is StateType.CRASHED
    assert crashed.state is not None
    assert "no heartbeat for 45 s" in (crashed.state.message or "")
    assert _type(living) is StateType.RUNNING
    assert _type(done) is StateType.COMPLETED
    assert done.state_name == "ShardsFailed"

    def told(run: FlowRun) -> bool:
        return any(str(run.id) in body for body in bodies)

    _until(lambda: told(done) and told(crashed), "a notification of each run that ended badly")
    assert not told(living)


def test_a_run_that_never_began_becomes_crashed(prefect_server: str) -> None:
    @flow
    def never() -> None:
        pass

    with SyncPrefectClient(api=prefect_server) as client:
        automations.apply(client, automations.shipped(startup=STARTUP))
        run = client.create_flow_run(never, tags=[automations.TAG]).id
        client.set_flow_run_state(run, Pending())  # as a worker does before it starts a process
    _until(lambda: _type(_read(prefect_server, run)) is not StateType.PENDING, "another state than PENDING")
    assert _type(_read(prefect_server, run)) is StateType.CRASHED


def _type(run: FlowRun) -> StateType | None:
    return run.state.type if run.state else None
