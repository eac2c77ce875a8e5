"""Shards that arrive: by event, by a look at the storage, by a notification in a queue. Each is cleaned once."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from prefect.client.schemas.objects import FlowRun, StateType

from bench.scenes import Stage
from tests.integration.field import announce, eventually, runs_of, start, wait

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

ARRIVAL = "clean-on-arrival"


@pytest.fixture
def clean(rehearsed: Stage) -> Iterator[Stage]:
    """A corpus that is clean, and one worker; what arrives is removed again."""
    rehearsed.reset()
    rehearsed.ground.out.reset(rehearsed.expected)
    rehearsed.worker()
    shards, there = rehearsed.ground.shards, rehearsed.ground.raw.read()
    yield rehearsed
    rehearsed.reset()
    rehearsed.ground.raw.reset(there)
    rehearsed.ground.shards = shards


@pytest.fixture
def queue(s3_endpoint: str) -> tuple[Any, str]:
    """moto's SQS: a client, and the URL of an empty queue."""
    client = botocore.session.get_session().create_client(
        "sqs",
        endpoint_url=s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    return client, client.create_queue(QueueName=f"arrivals-{uuid.uuid4().hex[:8]}")["QueueUrl"]


def test_an_event_starts_a_run_over_its_prefix(clean: Stage) -> None:
    before = known(clean)
    (name,) = clean.ground.arrive(1, "monday/")
    (unnamed,) = clean.ground.arrive(1, "tuesday/")
    announce(clean.orchestra, f"{clean.ground.raw.url}/monday/")
    ended = well(clean, new_run(clean, before))
    assert ended.parameters["prefix"] == f"{clean.ground.raw.url}/monday/"
    manifests = clean.ground.times("_ecif/manifest/")
    assert f"_ecif/manifest/{name}.json" in manifests
    assert f"_ecif/manifest/{unnamed}.json" not in manifests


def test_what_no_event_named_is_found_by_looking_and_only_once(clean: Stage) -> None:
    before = known(clean)
    clean.ground.proxy.clear()
    (name,) = clean.ground.arrive(1, "silent/")
    look(clean)
    well(clean, new_run(clean, before))
    assert f"_ecif/manifest/{name}.json" in clean.ground.times("_ecif/manifest/")
    look(clean)
    assert len(known(clean)) == len(before) + 1
    assert set(clean.ground.writes([r".*\.tar", r"_ecif/(scores|ledger|manifest)/.*"]).values()) == {1}


def test_a_notification_in_a_queue_becomes_a_run(clean: Stage, queue: tuple[Any, str]) -> None:
    client, url = queue
    before = known(clean)
    names = clean.ground.arrive(2, "queued/")
    for name in names:
        client.send_message(QueueUrl=url, MessageBody=json.dumps(notification(clean.ground.bucket, f"raw/{name}.tar")))
    client.send_message(QueueUrl=url, MessageBody=json.dumps(notification("elsewhere", "raw/x.tar")))
    polled = poll(clean, url)
    assert (polled["announced"], polled["events"], polled["left"]) == (2, 1, 1)
    ended = well(clean, new_run(clean, before))
    assert ended.parameters["prefix"] == f"{clean.ground.raw.url}/queued/"
    assert {f"_ecif/manifest/{name}.json" for name in names} <= set(clean.ground.times("_ecif/manifest/"))
    assert len(known(clean)) == len(before) + 1


def test_a_message_stays_when_the_server_is_away(clean: Stage, queue: tuple[Any, str]) -> None:
    client, url = queue
    before = known(clean)
    (name,) = clean.ground.arrive(1, "later/")
    client.send_message(QueueUrl=url, MessageBody=json.dumps(notification(clean.ground.bucket, f"raw/{name}.tar")))
    clean.orchestra.kill()
    poller = subprocess.Popen(command(clean, url), env=environment(clean), stdout=subprocess.PIPE, text=True)
    try:
        # It has taken the message and finds no server.
        eventually(lambda: waiting(client, url) == (0, 1), "the message in flight")
        clean.orchestra.start()
        out, _ = poller.communicate(timeout=300)
    finally:
        poller.kill()
        poller.wait()
    assert json.loads(out)["announced"] == 1
    assert waiting(client, url) == (0, 0)
    well(clean, new_run(clean, before))
    assert f"_ecif/manifest/{name}.json" in clean.ground.times("_ecif/manifest/")


def known(stage: Stage) -> set[uuid.UUID]:
    """The runs of `clean-on-arrival`."""
    return {run.id for run in runs_of(stage.orchestra, ARRIVAL)}


def new_run(stage: Stage, before: set[uuid.UUID]) -> uuid.UUID:
    """The one that was not there before."""
    found: set[uuid.UUID] = eventually(lambda: known(stage) - before, "a run of clean-on-arrival")
    (run,) = found
    return run


def well(stage: Stage, run: uuid.UUID) -> FlowRun:
    """Wait for a run that ends well."""
    ended = wait(stage.orchestra, run)
    assert ended.state is not None
    assert ended.state.type is StateType.COMPLETED
    assert ended.state.name == "Completed"
    return ended


def look(stage: Stage) -> None:
    """A run of the deployment `watch`, which the schedule would start."""
    well(stage, start(stage.orchestra, "watch/watch", quiet=0.5))


def notification(bucket: str, key: str) -> dict[str, Any]:
    """What S3 writes into a queue when an object was created."""
    return {"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}]}


def command(stage: Stage, queue: str) -> list[str]:
    """`ecif poll` until the queue is empty."""
    ecif = str(Path(sys.executable).with_name("ecif"))
    return [ecif, "poll", queue, f"{stage.ground.raw.url}/", "--quiet", "1", "--longest", "5", "--once", "--json"]


def environment(stage: Stage) -> dict[str, str]:
    """Of a poller: the server, and keys for the queue."""
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    return {**stage.orchestra.environment, **keys}


def poll(stage: Stage, queue: str) -> dict[str, int]:
    """What `ecif poll` says that it did."""
    done = subprocess.run(
        command(stage, queue), env=environment(stage), capture_output=True, text=True, timeout=300, check=True
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


def waiting(client: Any, queue: str) -> tuple[int, int]:
    """Messages that wait, and that are in flight."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = client.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
    return int(found[names[0]]), int(found[names[1]])
