"""JSON lines: one object each, that says where it was said, and no secret."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest

from ecif import logs, progress
from ecif.progress import Lines
from ecif.storage import Storage


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """JSON lines for one test; logging is then as it was."""
    monkeypatch.setenv(logs.VARIABLE, "json")
    before = (list(logs.LOGGER.handlers), logs.LOGGER.level, logs.LOGGER.propagate)
    yield
    logs.LOGGER.handlers, logs.LOGGER.propagate = before[0], before[2]
    logs.LOGGER.setLevel(before[1])


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_without_the_variable_lines_stay_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(logs.VARIABLE, raising=False)
    assert type(logs.progress()) is Lines
    assert type(progress.choose(json=True)) is Lines


def test_progress_says_its_numbers_and_where_it_was_said(as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    show = progress.choose(json=True)
    with logs.about(run="r-1", stage="score", group=None):
        show.stage("score", 2, "pairs")
        with logs.about(shard="00001"):
            show.note("two\nlines")
        show.advance(2)
        show.end()
    begun, note, ended = _lines(capsys)
    assert (begun["message"], begun["stage"], begun["total"], begun["unit"]) == ("score: 2 pairs", "score", 2, "pairs")
    assert (note["message"], note["run"], note["shard"], note["level"]) == ("two\nlines", "r-1", "00001", "info")
    assert note["time"].endswith("+00:00")
    assert ended["done"] == 2
    assert "shard" not in ended
    assert "group" not in ended
    assert logs.here() == {}


def test_fields_hold_in_threads_that_copy_the_context() -> None:
    seen: list[dict[str, str]] = []
    with logs.about(run="r-1"):
        context = copy_context()
    thread = threading.Thread(target=context.run, args=(lambda: seen.append(logs.here()),))
    thread.start()
    thread.join()
    assert seen == [{"run": "r-1"}]


def test_no_line_holds_a_secret(as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    Storage({"key": "reader-name", "secret": 'hunter"2\\hunter'})
    show = logs.progress()
    with logs.about(shard='hunter"2\\hunter'):
        show.note('refused: hunter"2\\hunter')
    try:
        raise ValueError('hunter"2\\hunter')
    except ValueError:
        logs.LOGGER.exception("unexpected")
    text = capsys.readouterr().err
    assert "hunter" not in text
    assert [json.loads(line)["message"] for line in text.splitlines()] == ["refused: ***", "unexpected"]


def test_other_loggers_on_stderr_speak_json_too(as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    other = logging.getLogger("somebody.else")
    handler = logging.StreamHandler(sys.stderr)
    other.addHandler(handler)
    try:
        logs.configure()
        with logs.about(run="r-2"):
            other.warning("%d retries", 3, extra={"flow_run_id": "f-1", "task_run_name": "score 00000+1"})
    finally:
        other.removeHandler(handler)
    line = _lines(capsys)[0]
    assert (line["level"], line["logger"], line["message"]) == ("warning", "somebody.else", "3 retries")
    assert (line["run"], line["task"]) == ("r-2", "score 00000+1")


def test_a_stderr_that_is_closed_ends_nothing(as_json: None, monkeypatch: pytest.MonkeyPatch) -> None:
    show = logs.progress()
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with open("/dev/null", "w") as closed:
        pass
    monkeypatch.setattr(sys, "stderr", closed)
    show.note("nobody hears this")
