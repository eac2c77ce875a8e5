"""A queue of moto's SQS, and the events that came of what was in it."""

from __future__ import annotations

import json
import uuid
from typing import Any

import botocore.session
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventResourceFilter

from tests.test_notifications import record


class Queue:
    """A queue, with a second one behind it for what is moved aside after two receipts."""

    def __init__(self, endpoint: str) -> None:
        self.client: Any = botocore.session.get_session().create_client(
            "sqs", endpoint_url=endpoint, region_name="us-east-1"
        )
        self.name = f"queue-{uuid.uuid4().hex[:8]}"
        self.dead = self.client.create_queue(QueueName=f"{self.name}-dead")["QueueUrl"]
        arn = self.client.get_queue_attributes(QueueUrl=self.dead, AttributeNames=["QueueArn"])["Attributes"]
        policy = {"deadLetterTargetArn": arn["QueueArn"], "maxReceiveCount": "2"}
        self.url = self.client.create_queue(QueueName=self.name, Attributes={"RedrivePolicy": json.dumps(policy)})[
            "QueueUrl"
        ]

    def put(self, *bodies: str) -> None:
        """Send messages."""
        for body in bodies:
            self.client.send_message(QueueUrl=self.url, MessageBody=body)

    def put_keys(self, *keys: str) -> None:
        """Send what S3 sends when these objects are created."""
        self.put(*(json.dumps({"Records": [record(key)]}) for key in keys))

    def counts(self) -> tuple[int, int]:
        """Messages that are visible, and those in flight."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return int(found[names[0]]), int(found[names[1]])


def announced(name: str) -> list[str]:
    """The prefixes of the events that the server has for a corpus."""
    wanted = EventFilter(resource=EventResourceFilter(id=[f"ecif.shards.{name}"]))
    with get_client(sync_client=True) as client:
        return sorted(event.payload["prefix"] for event in client.read_events(wanted, limit=50).events)
