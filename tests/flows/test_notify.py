"""Events that the server has really taken: sent to Prefect's test server, and read back from it."""

from __future__ import annotations

import json
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventIDFilter, EventNameFilter, EventResourceFilter
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from ecif.errors import UsageError
from flows.notify import EVENT, ServerError, arrived, run_notify, send


def _stored(resource: str) -> list[dict[str, object]]:
    wanted = EventFilter(event=EventNameFilter(name=[EVENT]), resource=EventResourceFilter(id=[resource]))
    with get_client(sync_client=True) as client:
        return [event.payload for event in client.read_events(wanted, limit=50).events]


def test_an_event_is_stored_when_send_returns() -> None:
    assert run_notify(["s3://bucket/raw/new", "s3://bucket/raw/new/00000.tar"], "stored") == ["s3://bucket/raw/new/"]
    assert _stored("ecif.shards.stored") == [{"prefix": "s3://bucket/raw/new/"}]


def test_many_events_are_sent_in_pages() -> None:
    events = [arrived(f"s3://bucket/raw/{number}/", "pages", shards=number) for number in range(60)]
    send(events)
    with get_client(sync_client=True) as client:
        found = client.read_events(EventFilter(id=EventIDFilter(id=[event.id for event in events[50:]])), limit=50)
    assert sorted(event.payload["shards"] for event in found.events) == list(range(50, 60))


def test_sending_the_same_event_again_stores_it_once() -> None:
    event = arrived("s3://bucket/raw/", "twice")
    send([event])
    send([event])
    assert len(_stored("ecif.shards.twice")) == 1


@pytest.mark.parametrize("url", ["ftp://host/raw", "s3://bucket/a::s3://bucket/b", "pipe:cat x", "s3://"])
def test_what_is_no_url_of_shards_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        run_notify([url], "refused")


def test_a_server_that_is_away_is_told() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free}/api"}),
        pytest.raises(ServerError, match="does not answer"),
    ):
        run_notify(["s3://bucket/raw/"], "away", patience=0)


def test_without_a_server_it_says_what_to_set() -> None:
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(UsageError, match="PREFECT_API_URL"),
    ):
        run_notify(["s3://bucket/raw/"], "nowhere")


class _Odd(BaseHTTPRequestHandler):
    """A server that refuses whom it does not know, is overloaded at first, and forgets what it is told."""

    asked = 0

    def do_GET(self) -> None:
        self._answer(404, {})  # it asks for no token against forged requests

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") is None:
            self._answer(401, {})
        elif self.path.endswith("/filter"):
            self._answer(200, {"events": [], "total": 0, "next_page": None})
        else:
            type(self).asked += 1
            self._answer(204 if self.asked > 1 else 503, {})

    def _answer(self, status: int, body: object) -> None:
        data = b"" if status == 204 else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


class _Clock:
    """Time that passes only by sleeping: a slow machine makes as many looks as a fast one."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_server_that_refuses_or_forgets_has_not_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.notify.time", _Clock())
    server = HTTPServer(("127.0.0.1", 0), _Odd)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/api"
    try:
        with temporary_settings({PREFECT_API_URL: url}), pytest.raises(UsageError, match="PREFECT_API_AUTH_STRING"):
            send([arrived("s3://bucket/raw/")])
        with (
            temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: "user:word"}),
            pytest.raises(ServerError, match="has not written"),
        ):
            send([arrived("s3://bucket/raw/")], patience=2)
        assert _Odd.asked == 2
    finally:
        server.shutdown()
        server.server_close()
