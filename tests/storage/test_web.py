"""Reading from web servers, good and bad ones; one layer of retries."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator

import pytest

from ecif.errors import StorageError
from ecif.storage import Storage


class _Web(http.server.SimpleHTTPRequestHandler):
    """Serves `files`; fails as `faults` says: a list of status codes, or the number of bytes after which to hang up."""

    files: dict[str, bytes] = {}  # noqa: RUF012 - set anew by each test
    faults: list[int | str] = []  # noqa: RUF012
    asked: list[str] = []  # noqa: RUF012

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(None)

    def _answer(self, body: bytes | None) -> None:
        self.asked.append(f"{self.command} {self.path}")
        fault = self.faults.pop(0) if self.faults and self.command == "GET" else None
        data = self.files.get(self.path)
        if isinstance(fault, int) or data is None:
            self.send_error(fault if isinstance(fault, int) else 404)
            return
        start, end = 0, len(data)
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            start, end = int(first), min(len(data), int(last) + 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", 'W/"abc"')
        self.end_headers()
        if body is None:
            self.wfile.write(data[start : (start + end) // 2] if fault == "cut" else data[start:end])
            if fault == "cut":
                self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[tuple[str, type[_Web]]]:
    handler = type("Handler", (_Web,), {"files": {}, "faults": [], "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
        server.shutdown()
        thread.join()


def test_reading_from_a_web_server(web: tuple[str, type[_Web]]) -> None:
    base, handler = web
    handler.files = {"/a.tar": os.urandom(70_000)}
    storage = Storage({"key": "never sent"})
    info = storage.info(f"{base}/a.tar")
    assert (info.size, info.etag) == (70_000, "abc")
    assert storage.read_bytes(f"{base}/a.tar") == handler.files["/a.tar"]
    assert storage.fingerprint(f"{base}/a.tar") == "etag-abc-70000"
    assert not storage.exists(f"{base}/b.tar")


@pytest.mark.usefixtures("rushing")
def test_a_passing_failure_is_bridged(web: tuple[str, type[_Web]]) -> None:
    base, handler = web
    handler.files = {"/a.tar": os.urandom(70_000)}
    handler.faults = [503, "cut", 500, "cut"]
    assert Storage().read_bytes(f"{base}/a.tar") == handler.files["/a.tar"]
    assert handler.faults == []


@pytest.mark.usefixtures("rushing")
@pytest.mark.parametrize("fault", [503, "cut"])
def test_a_lasting_failure_is_one_of_storage(web: tuple[str, type[_Web]], fault: int | str) -> None:
    base, handler = web
    handler.files = {"/a.tar": os.urandom(70_000)}
    handler.faults = [fault] * 1000
    with pytest.raises(StorageError, match=r"a\.tar: cannot read"):
        Storage().read_bytes(f"{base}/a.tar")
    assert 5 < len([line for line in handler.asked if line.startswith("GET")]) < 100


def test_a_refusal_is_final_and_not_absence(web: tuple[str, type[_Web]]) -> None:
    base, handler = web
    handler.files = {"/a.tar": b"x" * 10}
    handler.faults = [403]
    with pytest.raises(StorageError, match="access denied"):
        Storage().read_bytes(f"{base}/a.tar")
    assert [line for line in handler.asked if line.startswith("GET")] == ["GET /a.tar"]


@pytest.mark.usefixtures("rushing")
def test_a_server_that_is_not_there() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), _Web) as server:
        port = server.server_address[1]
    with pytest.raises(StorageError, match="cannot read"):
        Storage().exists(f"http://127.0.0.1:{port}/a.tar")
