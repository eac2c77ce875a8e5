"""A proxy in front of an S3 server that does to requests what networks and other servers do."""

from __future__ import annotations

import http.client
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

# What happens to one request. A number, or a number and a code, is the status of an answer; the server does not see
# the request.
#   "lost": the server does it, the answer never arrives         "dropped": it never arrives at the server
#   "cut": half of the answer's body arrives                     "stale": bodies end at byte CUT, in good order
#   "unconditional": If-None-Match and If-Match are ignored      "stall": nothing is said for STALL seconds
#   "whole": Range is ignored, too
Fault = int | tuple[int, str] | str | None
CUT = 50_000
STALL = 0.5

# Headers that the proxy writes itself.
_OWN = ("content-length", "connection", "transfer-encoding", "date", "server")


@dataclass
class Proxy:
    """Where it listens, what it saw, and the rules for what goes wrong.

    `rule` is asked with method and path, `on` with the name of the operation, such as `UploadPart`; the first that says
    something counts. `seen` has lines such as `PUT /bucket/key`, `done` names of operations, before rules are asked.
    """

    url: str
    rule: Callable[[str, str], Fault] = lambda method, path: None
    on: Callable[[str], Fault] = lambda operation: None
    seen: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    sent: int = 0  # bytes of bodies of answers

    def reset(self) -> None:
        """Forget what was seen, and all rules."""
        self.rule, self.on = lambda method, path: None, lambda operation: None
        self.sent = 0
        self.seen.clear()
        self.done.clear()

    def count(self, start: str) -> int:
        """Requests that begin with `start`."""
        return sum(line.startswith(start) for line in self.seen)


def operation(method: str, path: str) -> str:
    """What S3 calls a request."""
    parts, query = urlsplit(path), parse_qs(urlsplit(path).query, keep_blank_values=True)
    if "uploads" in query:
        return "CreateMultipartUpload" if method == "POST" else "ListMultipartUploads"
    if "uploadId" in query:
        names = {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}
        return names.get(method, "ListParts")
    if method == "GET" and not parts.path.strip("/").partition("/")[2]:
        return "ListObjectsV2"
    return {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}[method]


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
            proxy.done.append(operation(self.command, self.path))
            fault = proxy.rule(self.command, path) or proxy.on(operation(self.command, self.path))
            if isinstance(fault, int):
                fault = (fault, _CODES[fault])
            if isinstance(fault, tuple):
                text = f"<Error><Code>{fault[1]}</Code><Message>{fault[1]} by the proxy</Message></Error>"
                self._answer(fault[0], {"Content-Type": "application/xml"}, text.encode())
                return
            if fault in ("dropped", "stall"):
                time.sleep(STALL if fault == "stall" else 0)
                self.close_connection = True
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            if fault in ("unconditional", "whole"):
                ignored = ("If-None-Match", "If-Match", *(("Range",) if fault == "whole" else ()))
                headers = {name: value for name, value in headers.items() if name not in ignored}
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
                self.wfile.write(data[: (len(data) + 1) // 2] if cut else data)
                proxy.sent += len(data)
            self.close_connection = self.close_connection or cut

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

        def log_message(self, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that went away is no news."""

    with Server(("127.0.0.1", 0), Handler) as server:
        proxy = Proxy(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()


_CODES = {403: "AccessDenied", 429: "TooManyRequests", 500: "InternalError", 501: "NotImplemented", 503: "SlowDown"}
