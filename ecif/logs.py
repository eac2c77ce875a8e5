"""What a run says, as JSON lines for machines that collect logs, where ECIF_LOG_FORMAT is `json`.

One object a line on stderr: `time`, `level`, `message`, and where it was said, as far as that is known: `run`,
`stage`, `group`, `shard`. Where is told by `about`, whose fields hold inside its block, also in threads that copy the
context. Everything goes through Python's logging, so Prefect can keep the same messages (docs/observability.md), and
lines of other libraries get the same form. No line holds a secret: every text is cleaned on its way out.

The price is that of `redact`, about a millisecond a line; progress speaks every few seconds only.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from ecif.progress import Lines, Progress
from ecif.storage.secrets import redact

VARIABLE = "ECIF_LOG_FORMAT"
LOGGER = logging.getLogger("ecif")
# Prefect's records know which run they belong to; ours say it in the same words.
_PREFECT = {"flow_run_id": "run", "flow_run_name": "run_name", "task_run_name": "task"}

_FIELDS: ContextVar[dict[str, str] | None] = ContextVar("ecif_log_fields", default=None)


@contextmanager
def about(**fields: str | None) -> Iterator[None]:
    """Say with every line inside the block what it is about: `run`, `stage`, `group`, `shard`. None says nothing."""
    token = _FIELDS.set({**here(), **{name: value for name, value in fields.items() if value is not None}})
    try:
        yield
    finally:
        _FIELDS.reset(token)


def here() -> dict[str, str]:
    """The fields that hold here."""
    return _FIELDS.get() or {}


def as_json() -> bool:
    """Whether the environment asks for JSON lines."""
    return os.environ.get(VARIABLE, "").lower() == "json"


def progress() -> Progress:
    """What a run without a terminal reports to: plain lines, or JSON lines where the environment asks for them."""
    if not as_json():
        return Lines()
    configure()
    return JsonLines()


def configure() -> None:
    """Give every line on this process's stderr the form of JSON; may be called again, after others set up logging."""
    if not any(isinstance(handler, _Stderr) for handler in LOGGER.handlers):
        LOGGER.addHandler(_Stderr())
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in logging.root.manager.loggerDict)]
    for logger in loggers:
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stderr, sys.__stderr__):
                handler.setFormatter(Formatter())


class JsonLines(Lines):
    """The lines of `ecif.progress.Lines` with their numbers beside them: `stage`, `done`, `total`, `unit`."""

    def _print(self, text: str) -> None:
        numbers: dict[str, Any] = {}
        if self._name:
            numbers = {"stage": self._name, "done": self._count, "total": self._total, "unit": self._unit}
        LOGGER.info("%s", text, extra={"ecif": numbers})


class Formatter(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        said |= {ours: str(getattr(record, theirs)) for theirs, ours in _PREFECT.items() if hasattr(record, theirs)}
        said |= here() | getattr(record, "ecif", {})
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps({name: redact(value) if isinstance(value, str) else value for name, value in said.items()})


class _Stderr(logging.Handler):
    """Writes to whatever stderr is at the moment: a test or a log may have replaced it since."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # a log that cannot be written ends no run
            self.handleError(record)
