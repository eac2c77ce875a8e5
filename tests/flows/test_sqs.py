"""The poller against moto's SQS by HTTP and Prefect's test server: what is deleted, and when."""

from __future__ import annotations

import json

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from ecif.errors import StorageError, UsageError
from flows import sqs
from flows.sqs import Polled, Poller, client_of, run_poll
from tests.conftest import Bucket
from tests.flows.queues import Queue, announced
from tests.squares import Notes
from tests.test_notifications import record


def _poll(queue: Queue, notes: Notes, *, quiet: float = 0, longest: float = 60) -> Polled:
    return run_poll(queue.url, ["s3://bucket/raw"], queue.name, quiet, longest, True, notes)


def test_many_notifications_become_one_event_for_each_prefix_and_go(queue: Queue) -> None:
    days = ("2026-11-21", "2026-11-22")
    names = ("00000.tar", "00001.tar", "00000.parquet", "00000_stats.json")
    queue.put_keys(*(f"raw/{day}/{name}" for day in days for name in names))
    notes = Notes()
    polled = _poll(queue, notes, quiet=2)
    assert polled == Polled(announced=8, events=2)
    assert announced(queue.name) == [f"s3://bucket/raw/{day}/" for day in days]
    assert queue.counts() == (0, 0)
    assert notes.notes == [f"announced s3://bucket/raw/{day}/" for day in days]


def test_objects_that_are_put_into_a_bucket_are_announced(queue: Queue, s3_bucket: Bucket) -> None:
    """From the upload on: moto sends what S3 sends."""
    arn = queue.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    told = {"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]}
    s3_bucket.client().put_bucket_notification_configuration(Bucket=s3_bucket.name, NotificationConfiguration=told)
    for key in ("raw/day one/00000.tar", "raw/day one/00000.parquet", "elsewhere/0.tar"):
        s3_bucket.client().put_object(Bucket=s3_bucket.name, Key=key, Body=b"x")
    polled = run_poll(queue.url, [f"{s3_bucket.url}/raw/"], queue.name, 1, 60, True, Notes())
    assert (polled.announced, polled.events, polled.left) == (2, 1, 1)
    assert announced(queue.name) == [f"{s3_bucket.url}/raw/day one/"]


def test_so_many_prefixes_become_one(queue: Queue) -> None:
    queue.put_keys(*(f"raw/{number}/0.tar" for number in range(sqs.MOST_EVENTS + 1)))
    polled = _poll(queue, Notes(), quiet=2)
    assert polled.announced == sqs.MOST_EVENTS + 1
    assert announced(queue.name) == ["s3://bucket/raw/"]


def test_what_tells_of_no_shard_goes_without_an_event(queue: Queue) -> None:
    queue.put(json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent"}))
    queue.put(json.dumps({"Records": [record("raw/0.tar", "ObjectRemoved:Delete")]}))
    queue.put_keys("raw/README.txt")
    assert _poll(queue, Notes()) == Polled(empty=3)
    assert (queue.counts(), announced(queue.name)) == ((0, 0), [])


def test_what_is_not_understood_or_not_allowed_is_told_and_left_to_the_redrive_policy(queue: Queue) -> None:
    foreign = "raw-private/0.tar", "raw/../secret/0.tar", "elsewhere/0.tar"
    queue.put("no JSON", "{}")
    queue.put_keys(*foreign)
    both = {"Records": [record("raw/0.tar"), record("raw/0.tar", bucket="other")]}
    queue.put(json.dumps(both))
    notes = Notes()
    assert _poll(queue, notes) == Polled(left=6)
    assert announced(queue.name) == []
    assert queue.counts() == (0, 6)  # in flight; they become visible again by themselves
    assert len(notes.notes) == 6
    assert all(note.startswith("left in the queue: message ") for note in notes.notes)
    assert "redrive" not in "".join(notes.notes)
    assert sum("is not under an allowed prefix" in note for note in notes.notes) == 4


def test_a_message_stays_until_its_event_is_accepted(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqs, "PAUSE", 0.0)
    queue.put_keys("raw/a/0.tar", "raw/a/1.tar")
    notes = Notes()
    poller = Poller(queue.url, ["s3://bucket/raw"], queue.name, 0, 60, notes, patience=0)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert poller.turn() == (2, Polled())
        assert poller.turn() == (0, Polled())
    assert queue.counts() == (0, 2)
    assert "2 messages wait, no event was accepted" in notes.notes[0]
    poller._patience = 60
    _, done = poller.turn()
    assert done == Polled(announced=2, events=1)
    assert queue.counts() == (0, 0)
    assert announced(queue.name) == ["s3://bucket/raw/a/"]


def test_a_poller_that_dies_before_deleting_is_repeated_without_harm(queue: Queue) -> None:
    queue.put_keys("raw/a/0.tar")
    first = Poller(queue.url, ["s3://bucket/raw"], queue.name, 30, 60, Notes())
    assert first.turn() == (1, Polled())  # it waits for quiet, and is killed
    held = queue.client.receive_message(QueueUrl=queue.url, WaitTimeSeconds=0).get("Messages", [])
    assert held == []  # nobody else gets it meanwhile
    (waiting,) = first._waiting.receipts("s3://bucket/raw/a/")
    queue.client.change_message_visibility(QueueUrl=queue.url, ReceiptHandle=waiting.handle, VisibilityTimeout=0)
    assert _poll(queue, Notes()) == Polled(announced=1, events=1)
    assert queue.counts() == (0, 0)


def test_messages_that_wait_long_are_kept_in_flight(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.put_keys("raw/a/0.tar")
    poller = Poller(queue.url, ["s3://bucket/raw"], queue.name, 30, 60, Notes())
    poller.turn()
    (before,) = poller._waiting.receipts("s3://bucket/raw/a/")
    poller._waiting.receipts("s3://bucket/raw/a/")[0] = type(before)(before.handle, before.until - poller._flight)
    queue.client.change_message_visibility(QueueUrl=queue.url, ReceiptHandle=before.handle, VisibilityTimeout=1)
    poller.turn()
    (after,) = poller._waiting.receipts("s3://bucket/raw/a/")
    assert after.until >= before.until
    assert queue.counts() == (0, 1)


def test_a_queue_without_a_redrive_policy_is_told(queue: Queue) -> None:
    notes = Notes()
    Poller(queue.dead, ["s3://bucket/raw"], queue.name, 0, 60, notes)
    assert "redrive policy" in notes.notes[0]


def test_a_wrong_request_is_refused_at_once(queue: Queue) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        Poller(queue.url.replace(queue.name, "nowhere"), ["s3://bucket/raw"], "x", 0, 60, Notes())
    with pytest.raises(UsageError, match="prefixes"):
        Poller(queue.url, [], "x", 0, 60, Notes())
    with pytest.raises(UsageError, match="longest"):
        Poller(queue.url, ["s3://bucket/raw"], "x", 61, 60, Notes())
    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(UsageError, match="PREFECT_API_URL"):
        _poll(queue, Notes())


def test_a_queue_that_vanishes_is_waited_for_by_a_service_only(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqs, "PAUSE", 0.0)
    notes = Notes()
    poller = Poller(queue.url, ["s3://bucket/raw"], queue.name, 0, 60, notes)
    queue.client.delete_queue(QueueUrl=queue.url)
    assert poller.turn() == (0, Polled())
    assert "is asked again" in notes.notes[0]
    with pytest.raises(StorageError, match=queue.name):
        poller.run(once=True)


@pytest.mark.parametrize("url", ["", "queue", "s3://bucket/queue", "https://", "https://sqs.x.amazonaws.com/"])
def test_what_is_no_url_of_a_queue_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="URL of a queue"):
        client_of(url)


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/shards", "eu-west-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/shards", "cn-north-1"),
        ("http://127.0.0.1:9324/queue/shards", "us-east-1"),
    ],
)
def test_region_and_endpoint_follow_from_the_url(url: str, region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    client = client_of(url)
    assert client.meta.region_name == region
    assert url.startswith(client.meta.endpoint_url)
