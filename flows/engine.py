"""The embedded engine: a Prefect server on a free local port that lives exactly as long as this process.

Prefect can start a temporary server by itself, but that one outlives a killed parent: it keeps the database open,
and a reader of the parent's output waits for ever. This one exits when its standard input closes, however the
parent died, and it binds its port itself, so that no other server can answer in its place.

Starting takes 13-27 s on two shared cores, nearly all of it imports.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from filelock import FileLock
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from ecif.errors import UsageError

STARTUP_SECONDS = 300
STOP_SECONDS = 10

_EMBEDDED: ContextVar[bool] = ContextVar("ecif_embedded_engine", default=False)


def is_embedded() -> bool:
    """Whether the server of this run ends with it, so that nobody listens to its events."""
    return _EMBEDDED.get()


@contextmanager
def running(meanwhile: Callable[[], object] = lambda: None) -> Iterator[str]:
    """Run the block against the configured Prefect API, or else against a server of its own. Yields the API's URL.

    Args:
        meanwhile: work that needs no server, done while it starts; what it raises ends the start.

    Raises:
        UsageError: the server did not start; the message names the log that says why.
    """
    settings = get_current_settings()
    if settings.api.url:
        meanwhile()
        yield settings.api.url
        return
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        log = (settings.home / "ecif-engine.log").open("w")
    except OSError as error:
        raise UsageError(f"{settings.home}: Prefect's home cannot be written ({error}); set PREFECT_HOME") from error
    # Two servers that create or migrate one database at the same time fail; they take turns instead.
    turn = FileLock(settings.home / "ecif-engine.lock", thread_local=False)
    turn.acquire()
    with log, ThreadPoolExecutor(1) as waiting:
        server = subprocess.Popen(
            # -P: the script's directory stays off the module path.
            [sys.executable, "-P", str(Path(__file__).with_name("server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **settings.to_environment_variables(exclude_unset=True), "PREFECT_UI_ENABLED": "0"},
            start_new_session=True,  # Ctrl-C is for the parent, which then still reports its end.
        )
        try:
            port = waiting.submit(_port, server, Path(log.name), turn)
            meanwhile()
            url = f"http://127.0.0.1:{port.result()}/api"
            token = _EMBEDDED.set(True)
            try:
                with temporary_settings({PREFECT_API_URL: url}):
                    yield url
            finally:
                _EMBEDDED.reset(token)
        finally:
            APILogHandler().flush()  # the last lines of the run, before nobody takes them any more
            _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _port(server: subprocess.Popen[bytes], log: Path, turn: FileLock) -> int:
    """Wait until the server says on which port it answers, then let the next one start."""
    assert server.stdout is not None
    late = threading.Timer(STARTUP_SECONDS, server.kill)
    late.start()
    try:
        line = server.stdout.readline()
    finally:
        late.cancel()
        turn.release()
    if not line:
        said = [text for text in log.read_text(errors="replace").splitlines() if text.strip()]
        why = said[-1] if said else f"no answer after {STARTUP_SECONDS} s"
        raise UsageError(
            f"the embedded Prefect server did not start: {why}; see {log}, or set PREFECT_API_URL to a running server"
        )
    return int(line)
