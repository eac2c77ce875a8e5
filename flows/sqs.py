"""Turn the notifications of S3 that wait in an SQS queue into arrival events.

    receive -> which prefix? -> wait until it is quiet -> one event for all -> accepted by the server -> delete

A message is deleted only when the event that stands for it can be read back from the server (`flows.notify`). Killed
anywhere on the way, the messages become visible again and the event is sent once more, which does no harm: what is
done is done. A message that is not understood, or that names a place which is not allowed, is said once and left to
the queue: its redrive policy moves it aside after so many receipts, and without one it stays until the queue forgets
it. Nothing is held but receipts, and of these a bounded number.

The price of waiting for quiet: a message stays in flight for up to `longest` seconds and the time of one sending.
"""

from __future__ import annotations

import math
import re
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config

from ecif.arrivals import admit, as_prefix, fewest
from ecif.debounce import Debounce
from ecif.errors import EcifError, InputError, StorageError, UsageError
from ecif.notifications import created
from ecif.progress import Progress
from ecif.sources import SIDECARS, TARS
from ecif.storage.faults import retrying, translated
from ecif.storage.urls import folder_of, normalise
from flows.notify import PATIENCE, ServerError, arrived, require_server, send

# What SQS allows: messages for each request, seconds of waiting for one, seconds that a message may stay in flight.
BATCH, LONG_POLL, LONGEST_FLIGHT = 10, 20, 12 * 3600
# Of the 120,000 messages that may be in flight.
MOST_HELD = 50_000
# Events of one turn for one allowed prefix; more of them become one for all of it.
MOST_EVENTS = 8
# Seconds before a server that did not take an event is asked again.
PAUSE = 15.0
# Messages of which is remembered that they have been told of.
_REMEMBERED = 1_000


@dataclass(frozen=True, slots=True)
class Polled:
    """What came of it: messages that led to an event, that told of nothing new, and that were left; events."""

    announced: int = 0
    empty: int = 0
    left: int = 0
    events: int = 0

    def to_json(self) -> dict[str, int]:
        """Plain values."""
        return asdict(self)

    def __add__(self, other: Polled) -> Polled:
        return Polled(
            self.announced + other.announced,
            self.empty + other.empty,
            self.left + other.left,
            self.events + other.events,
        )


@dataclass(frozen=True, slots=True)
class _Receipt:
    handle: str
    until: float


class Poller:
    """One queue, and what was received from it and is not spoken of yet.

    Args:
        queue: its URL; region and endpoint follow from it, credentials are those of the environment.
        allowed: prefixes below which shards may arrive.
        name: of the corpus, in the events.
        quiet, longest: seconds to wait, see `ecif.debounce`.
        patience: seconds in which the server has to accept an event, before it is sent again later.

    Raises:
        UsageError: an argument is wrong. StorageError: the queue cannot be reached.
    """

    def __init__(
        self,
        queue: str,
        allowed: Sequence[str],
        name: str,
        quiet: float,
        longest: float,
        progress: Progress,
        patience: float = PATIENCE,
    ) -> None:
        if not 0 <= quiet <= longest <= LONGEST_FLIGHT / 2:
            raise UsageError(
                f"--quiet and --longest: 0 <= {quiet} <= {longest} <= {LONGEST_FLIGHT // 2} seconds is needed"
            )
        if not allowed:
            raise UsageError("name the prefixes below which shards may arrive: others are not listened to")
        self._queue, self._name, self._progress, self._patience = queue, name, progress, patience
        self._allowed = [as_prefix(prefix) for prefix in allowed]
        self._client = client_of(queue)
        self._waiting: Debounce[_Receipt] = Debounce(quiet, longest)
        self._flight = math.ceil(longest + 2 * patience + LONG_POLL)
        self._not_before = 0.0
        self._told: OrderedDict[str, None] = OrderedDict()
        attributes = self._request("get_queue_attributes", AttributeNames=["RedrivePolicy"]).get("Attributes", {})
        if "RedrivePolicy" not in attributes:
            progress.note(f"{queue} has no redrive policy: messages that are not understood stay in it; give it one")

    def run(self, *, once: bool) -> Polled:
        """Poll until nothing is left (`once`), or for ever.

        Raises:
            EcifError: the queue or the server refuses us for good.
        """
        total = Polled()
        while True:
            received, done = self.turn(strict=once)
            total = total + done
            if once and not received and not len(self._waiting):
                return total

    def turn(self, *, strict: bool = False) -> tuple[int, Polled]:
        """Receive once, speak of what is due, keep the rest in flight; how many messages came, and what came of it.

        Args:
            strict: a queue that does not answer is an error, not a pause.
        """
        messages = self._receive(strict)
        done = self._sort(messages)
        done = done + self._speak()
        self._keep()
        return len(messages), done

    def _receive(self, strict: bool) -> list[dict[str, Any]]:
        if len(self._waiting) >= MOST_HELD:
            time.sleep(1)
            return []
        try:
            answer = self._request(
                "receive_message",
                MaxNumberOfMessages=BATCH,
                # Long when nothing else is to be done.
                WaitTimeSeconds=1 if len(self._waiting) else LONG_POLL,
                VisibilityTimeout=self._flight,
            )
        except StorageError as error:
            if strict:
                raise
            self._progress.note(f"the queue does not answer, it is asked again: {error}")
            time.sleep(PAUSE)
            return []
        return list(answer.get("Messages", ()))

    def _sort(self, messages: Sequence[dict[str, Any]]) -> Polled:
        now = time.monotonic()
        empty: list[_Receipt] = []
        left = 0
        for message in messages:
            receipt = _Receipt(message["ReceiptHandle"], now + self._flight)
            try:
                prefixes = {self._place(url) for url in created(message["Body"], f"message {message['MessageId']}")}
            except EcifError as error:
                left += 1
                self._tell(message["MessageId"], error)
                continue
            prefixes.discard("")
            if not prefixes:
                empty.append(receipt)
            for prefix in prefixes:
                self._waiting.add(prefix, receipt, now)
        self._delete(empty)
        return Polled(empty=len(empty), left=left)

    def _place(self, url: str) -> str:
        """The prefix that an object stands for; empty for one that is no part of a shard.

        A sidecar stands for its shard: a prefix is quiet when those have come, too.
        """
        place = normalise(url)
        admitted = admit(folder_of(place), self._allowed)
        return admitted if place.endswith((*TARS, *SIDECARS)) else ""

    def _speak(self) -> Polled:
        now = time.monotonic()
        due = self._waiting.places() if len(self._waiting) >= MOST_HELD else self._waiting.due(now)
        if not due or now < self._not_before:
            return Polled()
        stands = fewest(due, self._allowed, MOST_EVENTS)
        held = {place: self._waiting.receipts(place) for place in due}
        messages = {receipt.handle for receipts in held.values() for receipt in receipts}
        events = [arrived(prefix, self._name) for prefix in sorted(set(stands.values()))]
        try:
            send(events, self._patience)
        except ServerError as error:
            # The messages stay in flight: received again and again they would be moved aside for nothing.
            self._progress.note(f"{len(messages):,} messages wait, no event was accepted: {error}")
            self._not_before = time.monotonic() + PAUSE
            return Polled()
        for place in due:
            self._waiting.forget(place)
        still = {receipt.handle for place in self._waiting.places() for receipt in self._waiting.receipts(place)}
        self._delete([receipt for receipts in held.values() for receipt in receipts if receipt.handle not in still])
        for event in events:
            self._progress.note(f"announced {event.payload['prefix']}")
        return Polled(announced=len(messages), events=len(events))

    def _keep(self) -> None:
        """Ask for more time for messages whose time is half over."""
        now = time.monotonic()
        for place in self._waiting.places():
            receipts = self._waiting.receipts(place)
            for number, receipt in enumerate(receipts):
                if receipt.until - now < self._flight / 2:
                    with suppress(StorageError):  # then it comes again, which does no harm
                        self._request(
                            "change_message_visibility", ReceiptHandle=receipt.handle, VisibilityTimeout=self._flight
                        )
                    receipts[number] = replace(receipt, until=now + self._flight)

    def _delete(self, receipts: Sequence[_Receipt]) -> None:
        handles = sorted({receipt.handle for receipt in receipts})
        for start in range(0, len(handles), BATCH):
            entries = [
                {"Id": str(number), "ReceiptHandle": handle}
                for number, handle in enumerate(handles[start : start + BATCH])
            ]
            try:
                failed = self._request("delete_message_batch", Entries=entries).get("Failed", ())
            except StorageError as error:
                failed = [{"Message": str(error)}]
            if failed:
                reason = failed[0].get("Message") or failed[0].get("Code")
                self._progress.note(f"messages were not deleted and will be announced again: {reason}")

    def _tell(self, message: str, error: EcifError) -> None:
        if message in self._told:
            return
        self._told[message] = None
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        text = str(error) if isinstance(error, InputError) else f"message {message}: {error}"
        self._progress.note(f"left in the queue: {text}")

    def _request(self, method: str, **arguments: Any) -> dict[str, Any]:
        with translated(self._queue, "read"):
            answer: dict[str, Any] = retrying(lambda: getattr(self._client, method)(QueueUrl=self._queue, **arguments))
            return answer


def run_poll(
    queue: str, allowed: Sequence[str], name: str, quiet: float, longest: float, once: bool, progress: Progress
) -> Polled:
    """Poll a queue for the command line.

    Raises:
        EcifError: an argument is wrong, or the queue cannot be reached at all.
    """
    require_server()
    return Poller(queue, allowed, name, quiet, longest, progress).run(once=once)


def client_of(queue: str) -> Any:
    """A botocore client for the server and the region that the URL of a queue names.

    Raises:
        UsageError: it is no such URL.
    """
    parts = urlsplit(queue)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or len(parts.path) < 2:
        raise UsageError(f"{queue!r} is not the URL of a queue (https://sqs.REGION.amazonaws.com/ACCOUNT/NAME)")
    region = re.fullmatch(r"sqs[.-]([a-z0-9-]+)\.amazonaws\.com(\.cn)?", parts.hostname)
    session = botocore.session.get_session()
    return session.create_client(
        "sqs",
        endpoint_url=f"{parts.scheme}://{parts.netloc}",
        region_name=region[1] if region else session.get_config_variable("region") or "us-east-1",
        # Retries happen in one place (`ecif.storage.faults`).
        config=Config(retries={"total_max_attempts": 1}, read_timeout=LONG_POLL + 40, connect_timeout=15),
    )
