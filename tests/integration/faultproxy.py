"""A proxy in front of an S3 server that does to single requests what networks, proxies and loaded servers do.

    with proxied("http://127.0.0.1:9000") as proxy:          # proxy.url is the endpoint to use
        proxy.rules.append(Rule(Cut(at=1_000_000), method="GET", target="/bucket/big.tar", times=1))

It speaks just enough HTTP/1.1, on one event loop in a thread, and passes bodies through in pieces, so that a cut
happens where it is meant to and a 2 GB object costs no memory. Requests are forwarded as they came, Host included:
signatures stay valid. Answers without a length are passed on raw and end with the connection.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_PIECE = 1 << 16
_HEAD_LIMIT = 1 << 20
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: closing sends RST


@dataclass(frozen=True, slots=True)
class Status:
    """An answer that the server never gave; `code` is S3's name for it, "" gives an empty body."""

    status: int
    code: str = ""


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection dies where byte `at` of the object would come; by RST, or as if in good order."""

    at: int
    reset: bool = True


@dataclass(frozen=True, slots=True)
class Shorten:
    """The body ends before byte `at` of the object, and Content-Length agrees; Content-Range, too, if `ranged`."""

    at: int
    ranged: bool = False


@dataclass(frozen=True, slots=True)
class Stall:
    """Nothing comes for `seconds` from byte `at` of the object on; then the rest."""

    at: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Throttle:
    """Bytes per second, of request and answer."""

    rate: int


@dataclass(frozen=True, slots=True)
class DropAnswer:
    """The server does what was asked, its answer is lost."""


@dataclass(frozen=True, slots=True)
class CutRequest:
    """The connection dies after so many bytes of the request's body; the server sees nothing of it."""

    after: int


@dataclass(frozen=True, slots=True)
class Meanwhile:
    """Something happens before the request is forwarded, such as another writer's work."""

    act: Callable[[], object]


Action = Status | Cut | Shorten | Stall | Throttle | DropAnswer | CutRequest | Meanwhile


@dataclass(slots=True)
class Rule:
    """What happens to which requests.

    Args:
        action: what happens. Cuts, stalls and shortened bodies hit only answers that hold the byte they name.
        method, target: regular expressions; the whole method, the beginning of path and query.
        skip: so many matching requests pass first. times: then so many are hit, None: all.
    """

    action: Action
    method: str = ".*"
    target: str = ""
    skip: int = 0
    times: int | None = None
    matched: int = 0

    def takes(self, request: Request) -> bool:
        """Whether it hits this request; counts it."""
        if not (re.fullmatch(self.method, request.method) and re.match(self.target, request.target)):
            return False
        if isinstance(self.action, Cut | Shorten | Stall) and not request.first <= self.action.at <= request.last:
            return False
        self.matched += 1
        return self.matched > self.skip and (self.times is None or self.matched <= self.skip + self.times)

    @property
    def hits(self) -> int:
        """How many requests it hit."""
        most = self.matched if self.times is None else self.times
        return max(0, min(self.matched - self.skip, most))


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the proxy sees it; `first` and `last` are the bytes of the object that it asks for."""

    method: str
    target: str
    length: int
    first: int
    last: int
    waits: bool  # for "100 Continue"
    lines: tuple[str, ...]

    @classmethod
    def parse(cls, head: bytes) -> Request:
        lines = head.decode("latin1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        headers = _headers(lines)
        if "transfer-encoding" in headers:
            raise ValueError(f"{method} {target}: the proxy forwards only bodies with a length")
        bounds = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        first, last = (int(bounds[1]), int(bounds[2] or 1 << 62)) if bounds else (0, 1 << 62)
        length = int(headers.get("content-length", 0))
        return cls(method, target, length, first, last, "100-continue" in headers.get("expect", ""), tuple(lines[1:]))


@dataclass
class Proxy:
    """Its address, its rules (the first that matches counts), and the requests it saw."""

    url: str
    upstream: tuple[str, int]
    rules: list[Rule] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def clear(self) -> None:
        """No rules, nothing seen."""
        self.rules.clear()
        self.seen.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection can take another."""
        request = Request.parse(await reader.readuntil(b"\r\n\r\n"))
        self.seen.append(f"{request.method} {request.target}")
        action = next((rule.action for rule in self.rules if rule.takes(request)), None)
        if isinstance(action, Status | CutRequest):
            if request.waits:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            limit = action.after if isinstance(action, CutRequest) else request.length
            await _skip(reader, min(limit, request.length))
            if isinstance(action, CutRequest):
                return _die(writer)
            writer.write(_answer(action, request.method))
            await writer.drain()
            return True
        if isinstance(action, Meanwhile):
            await asyncio.get_running_loop().run_in_executor(None, action.act)
        up_reader, up_writer = await asyncio.open_connection(*self.upstream, limit=_HEAD_LIMIT)
        try:
            return await _forward(request, action, (reader, writer), (up_reader, up_writer))
        finally:
            up_writer.close()


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _forward(request: Request, action: Action | None, client: Streams, server: Streams) -> bool:
    reader, writer = client
    up_reader, up_writer = server
    kept = [line for line in request.lines if line and not line.lower().startswith("connection:")]
    start = f"{request.method} {request.target} HTTP/1.1"
    up_writer.write("\r\n".join([start, *kept, "Connection: close", "", ""]).encode("latin1"))
    rate = action.rate if isinstance(action, Throttle) else None
    head = b""
    if request.waits:  # the server may refuse before it has the body
        head = await up_reader.readuntil(b"\r\n\r\n")
        if _status(head) == 100:
            writer.write(head)
            head = b""
    if not head:
        left = request.length
        while left:
            piece = await reader.read(min(left, _PIECE))
            if not piece:
                return False
            left -= len(piece)
            up_writer.write(piece)
            await up_writer.drain()
            if rate:
                await asyncio.sleep(len(piece) / rate)
    refused_early = bool(head)
    while not head or _status(head) == 100:
        head = await up_reader.readuntil(b"\r\n\r\n")
    if isinstance(action, DropAnswer):
        await up_reader.read()
        return _die(writer)
    return await _pass_on(request, action, head, up_reader, writer) and not refused_early


async def _pass_on(
    request: Request, action: Action | None, head: bytes, source: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    status = _status(head)
    lines = head.decode("latin1").split("\r\n")
    headers = _headers(lines)
    empty = request.method == "HEAD" or status in (204, 304)
    length = int(headers["content-length"]) if "content-length" in headers else None
    # Errors and whole answers begin at byte 0 of what is sent, ranges where Content-Range says.
    begins = int((re.match(r"bytes (\d+)-", headers.get("content-range", "")) or ["", "0"])[1])
    place = action.at - begins if isinstance(action, Cut | Shorten | Stall) and status < 300 else None
    kept = [line for line in lines[1:] if line and not line.lower().startswith("connection:")]
    if isinstance(action, Shorten) and place is not None and length is not None and not empty:
        length = min(length, place)
        changed = {"content-length": f"Content-Length: {length}"}
        if action.ranged and length:
            total = headers.get("content-range", "").rpartition("/")[2]
            changed["content-range"] = f"Content-Range: bytes {begins}-{begins + length - 1}/{total}"
        kept = [changed.get(line.split(":", 1)[0].lower(), line) for line in kept]
    reusable = empty or length is not None
    kept.append("Connection: " + ("keep-alive" if reusable else "close"))
    writer.write("\r\n".join([lines[0].replace("HTTP/1.0", "HTTP/1.1"), *kept, "", ""]).encode("latin1"))
    left, sent = (0 if empty else 1 << 62 if length is None else length), 0
    while left:
        if place is not None and sent == place and isinstance(action, Cut):
            await writer.drain()
            await asyncio.sleep(0.02)  # so that what was sent arrives before the end does
            return _die(writer, reset=action.reset)
        if place is not None and sent == place and isinstance(action, Stall):
            await writer.drain()
            await asyncio.sleep(action.seconds)
            place = None
        stop = place - sent if place is not None and not isinstance(action, Shorten) and place > sent else left
        piece = await source.read(min(left, _PIECE, stop))
        if not piece:
            break
        writer.write(piece)
        await writer.drain()
        sent, left = sent + len(piece), left - len(piece)
        if isinstance(action, Throttle):
            await asyncio.sleep(len(piece) / action.rate)
    await writer.drain()
    return reusable and not left


def _headers(lines: list[str]) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in lines[1:] if ":" in line)
    return {name.strip().lower(): value.strip() for name, value in pairs}


def _status(head: bytes) -> int:
    return int(head.split(b" ", 2)[1])


def _answer(action: Status, method: str) -> bytes:
    body = b""
    if action.code and method != "HEAD":
        error = f"<Error><Code>{action.code}</Code><Message>made up by the proxy</Message></Error>"
        body = ('<?xml version="1.0" encoding="UTF-8"?>' + error).encode()
    head = f"HTTP/1.1 {action.status} Fault\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _skip(reader: asyncio.StreamReader, left: int) -> None:
    while left:
        piece = await reader.read(min(left, _PIECE))
        if not piece:
            return
        left -= len(piece)


def _die(writer: asyncio.StreamWriter, reset: bool = True) -> bool:
    connection = writer.get_extra_info("socket")
    if reset and connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()
    else:
        writer.close()
    return False


@contextmanager
def proxied(upstream: str) -> Iterator[Proxy]:
    """A proxy on a free loopback port, in front of a server on this machine."""
    address = urlsplit(upstream)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    proxy = Proxy("", (address.hostname or "127.0.0.1", address.port or 80))

    async def listen() -> asyncio.Server:
        return await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=_HEAD_LIMIT)

    async def end() -> None:
        server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result()
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(end(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()
