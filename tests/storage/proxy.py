"""A proxy in front of an S3 server that does to requests what networks and other servers do."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# What happens to one request. A number is the status of an answer that the server never sees.
#   "lost": the server does it, the answer never arrives         "cut": half of the answer's body arrives
#   "stale": bodies end at byte CUT of the object, in good order "unconditional": If-None-Match is ignored
Fault = int | str | None
CUT = 50_000

# Headers that the proxy writes itself.
_OWN = ("content-length", "connection", "transfer-encoding", "date", "server")


@dataclass
class Proxy:
    """Where it listens, the requests it saw (`PUT /bucket/key`), and the rule for what goes wrong."""

    url: str
    rule: Callable[[str, str], Fault] = lambda method, path: None
    seen: list[str] = field(default_factory=list)

    def count(self, start: str) -> int:
        """Requests that begin with `start`."""
        return sum(line.startswith(start) for line in self.seen)


@contextmanager
def proxied(upstream: str) -> Iterator[Proxy]:
    """A proxy on a free loopback port."""
    address = upstream.removeprefix("http://")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.split("?")[0]
            proxy.seen.append(f"{self.command} {path}")
            fault = proxy.rule(self.command, path)
            if isinstance(fault, int):
                self._answer(fault, {"Content-Type": "application/xml"}, _error(fault))
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            if fault == "unconditional":
                headers.pop("If-None-Match", None)
            connection = http.client.HTTPConnection(address)
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            if fault == "lost":
                self.close_connection = True
                return
            if fault == "stale" and self.headers.get("Range"):
                data = data[: max(0, CUT - int(self.headers["Range"].removeprefix("bytes=").split("-")[0]))]
            plain = {name: value for name, value in answer.getheaders() if "checksum" not in name or fault != "stale"}
            self._answer(answer.status, plain, data, cut=fault == "cut")

        def _answer(self, status: int, headers: dict[str, str], data: bytes, cut: bool = False) -> None:
            self.send_response(status)
            length = str(len(data))
            if self.command == "HEAD":
                length = headers.get("Content-Length", "0")
            for name, value in headers.items():
                if name.lower() not in _OWN:
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if cut else data)
            self.close_connection = self.close_connection or cut

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        proxy = Proxy(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()


def _error(status: int) -> bytes:
    code = {403: "AccessDenied", 500: "InternalError", 501: "NotImplemented", 503: "SlowDown"}[status]
    return f"<Error><Code>{code}</Code><Message>{code} by the proxy</Message></Error>".encode()
