"""Tell the server that shards have arrived, and know that it has heard.

Prefect's `emit_event` hands an event to a thread that sends it over a websocket some time, and says nothing when it
could not. Here an event is sent by a request, with the retries, the authentication and the certificates of Prefect's
own client, and counts as accepted when it can be read back: the answer to the request alone would come before the
server's queue, which is in memory, has been written down. What is read back has survived a restart of the server.

The price: five seconds or so, which is how often the server writes events down. What no confirmation can promise is
that a trigger has fired; that every shard is found in the end is what `watch` is for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events import Event
from prefect.events.filters import EventFilter, EventIDFilter, EventOccurredFilter
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings

from ecif.arrivals import as_prefix
from ecif.errors import EcifError, UsageError
from ecif.storage.secrets import redact

T = TypeVar("T")

EVENT = "ecif.shards.arrived"
# Seconds for which a server that does not answer, or has not written an event down yet, is asked again.
PATIENCE = 90.0
SECONDS_BETWEEN_LOOKS = 0.5
# The server gives a page of fifty.
AT_ONCE = 50


class ServerError(EcifError):
    """The server does not answer, or has not taken what it was told: nothing will come of it, tell it again."""


def arrived(prefix: str, name: str = "corpus", **more: Any) -> Event:
    """The event that shards have arrived under a prefix.

    Args:
        prefix: a URL that ends in `/`; `ecif.arrivals.as_prefix` spells it.
        name: of the corpus; deployments with triggers for `ecif.shards.NAME` hear it.
        more: what else the payload holds: small numbers and names.
    """
    return Event(
        event=EVENT, resource={"prefect.resource.id": f"ecif.shards.{name}"}, payload={"prefix": prefix, **more}
    )


def run_notify(urls: Sequence[str], name: str, patience: float = PATIENCE) -> list[str]:
    """Send one event for each prefix among `urls`, for the command line; returns the prefixes.

    Raises:
        UsageError: a URL is not accepted, or no server is named.
        ServerError: the server did not take the events.
    """
    prefixes = sorted({as_prefix(url) for url in urls})
    send([arrived(prefix, name) for prefix in prefixes], patience)
    return prefixes


def require_server() -> None:
    """Do nothing where a server is named.

    Raises:
        UsageError: none is.
    """
    if not get_current_settings().api.url:
        raise UsageError("no server to tell: set PREFECT_API_URL, and PREFECT_API_AUTH_STRING where it asks for one")


def send(events: Sequence[Event], patience: float = PATIENCE) -> None:
    """Send events, and wait until the server has written all of them down.

    Args:
        patience: seconds that a page of events may take in all.

    Raises:
        UsageError: no server is named, or it refuses us.
        ServerError: it did not take them in time; sending them again does no harm.
    """
    require_server()
    # One layer of retries: ours, which also waits for a server that is only just starting.
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
        for start in range(0, len(events), AT_ONCE):
            _page(client, events[start : start + AT_ONCE], time.monotonic() + patience)


def _page(client: SyncPrefectClient, events: Sequence[Event], deadline: float) -> None:
    body = [event.model_dump(mode="json") for event in events]
    _patiently(lambda: client.request("POST", "/events", json=body), deadline)
    left = {event.id: event.occurred for event in events}
    while True:
        for stored in _patiently(lambda: _stored(client, left), deadline):
            left.pop(stored, None)
        if not left:
            return
        if time.monotonic() >= deadline:
            raise ServerError(
                f"the server took {len(left)} events and has not written them down: its event queue is full, or its "
                "service that writes events (PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED) does not run"
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _stored(client: SyncPrefectClient, wanted: Mapping[UUID, datetime]) -> list[UUID]:
    # The server's own bounds would leave out what a machine with a fast clock has sent.
    moments = sorted(wanted.values())
    around = EventOccurredFilter(since=moments[0] - timedelta(minutes=1), until=moments[-1] + timedelta(minutes=1))
    found = client.read_events(EventFilter(id=EventIDFilter(id=list(wanted)), occurred=around), limit=AT_ONCE)
    return [event.id for event in found.events]


def _patiently(request: Callable[[], T], deadline: float) -> T:
    while True:
        try:
            return request()
        except (PrefectHTTPStatusError, httpx.TransportError) as error:
            problem = explained(error)
            if time.monotonic() >= deadline or isinstance(problem, UsageError):
                raise problem from None
        time.sleep(SECONDS_BETWEEN_LOOKS)


def explained(error: PrefectHTTPStatusError | httpx.TransportError) -> EcifError:
    """A failed request to the server as an error for the user; a `UsageError` where asking again would end alike."""
    if isinstance(error, httpx.TransportError):
        place = get_current_settings().api.url
        return ServerError(redact(f"{place} does not answer ({type(error).__name__}: {error})"))
    status = error.response.status_code
    if status in (401, 403):
        return UsageError(f"the server refuses us ({status}): set PREFECT_API_AUTH_STRING or PREFECT_API_KEY")
    if (status >= 500 and status != 501) or status in (408, 429):
        return ServerError(f"the server answers {status} only; try again later")
    return UsageError(f"the server refuses the request ({status}): {redact(error.response.text[:500])}")
