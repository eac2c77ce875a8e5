"""The event that an output is finished: only then, once for each state, and never at the price of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.settings import PREFECT_API_URL, temporary_settings

from ecif.inventory import Inventory
from ecif.layout import Layout
from ecif.run import Run
from ecif.settings import Settings
from ecif.storage import Storage
from flows import engine, summary
from flows.outcome import Outcome
from flows.summary import EVENT, announce, finished

DATA = {"shard": "2", "stage": "score", "reason": "is cut", "passing": False}


def _outcome(out: str, **changes: Any) -> Outcome:
    whole = Outcome(out, shards=3, pairs=30, scored=3, written=3, kept=27, dropped=3, decision_key="d", score_key="s")
    return replace(whole, **changes)


def _run(out: Path, **settings: Any) -> Run:
    chosen = Settings(out=str(out), **settings)
    return Run(chosen, Layout(chosen.out), Storage(), Inventory((), ()), (), "f", "s")


def _events(out: str) -> Sequence[Event]:
    since = datetime.now(UTC) - timedelta(hours=1)
    wanted = EventFilter(
        event=EventNameFilter(name=[EVENT]),
        resource=EventResourceFilter(id=[summary.resource(out)]),
        occurred=EventOccurredFilter(since=since, until=datetime.now(UTC) + timedelta(minutes=1)),
    )
    with get_client(sync_client=True) as client:
        return client.read_events(wanted, limit=50).events


@pytest.mark.parametrize(
    ("changes", "packed", "expected"),
    [
        ({}, False, True),
        ({"decision_key": None}, False, False),
        ({"written": 2}, False, False),
        ({"written": 2, "failed": [DATA]}, False, True),
        ({"written": 2, "failed": [{**DATA, "passing": True}]}, False, False),
        ({"written": 2, "failed": [{**DATA, "stage": "write"}]}, False, True),
        ({"written": 2, "failed": [{**DATA, "stage": "write"}]}, True, False),
        ({"failed": [{**DATA, "stage": "pack"}]}, True, False),
        ({"shards": 0, "written": 0}, False, False),
    ],
)
def test_finished_is_what_another_run_would_not_change(changes: dict[str, Any], packed: bool, expected: bool) -> None:
    assert finished(_outcome("out", **changes), packed=packed) is expected


def test_every_state_of_an_output_is_announced_once(tmp_path: Path) -> None:
    run = _run(tmp_path / "out")
    out = run.layout.root
    assert announce(_outcome(out), None, run)
    assert not announce(_outcome(out, seconds={"fit": 2.0}), None, run)
    assert announce(_outcome(out, shards=4, written=4, pairs=40, kept=36, dropped=4), "s3://b/raw/4/", run)
    later, first = sorted(_events(out), key=lambda event: event.occurred, reverse=True)
    assert first.resource["prefect.resource.name"] == out
    assert first.resource["ecif.failed"] == "0"
    numbers = {name: first.payload[name] for name in ("out", "kept", "dropped", "written", "prefix", "decision_key")}
    assert numbers == {"out": out, "kept": 27, "dropped": 3, "written": 3, "prefix": None, "decision_key": "d"}
    assert first.payload["headline"].startswith("kept 27 of 30 pairs")
    assert (later.payload["kept"], later.payload["prefix"]) == (36, "s3://b/raw/4/")


def test_a_run_that_is_not_finished_says_nothing(tmp_path: Path) -> None:
    run = _run(tmp_path / "out")
    assert not announce(_outcome(run.layout.root, written=1), None, run)
    assert not (tmp_path / "out").exists()


def test_a_server_that_is_away_delays_the_announcement_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "PATIENCE", 0.0)
    run = _run(tmp_path / "out")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        assert not announce(_outcome(run.layout.root), None, run)
    monkeypatch.undo()
    assert announce(_outcome(run.layout.root), None, run)


def test_an_output_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").touch()  # a file where the directory should be
    run = _run(tmp_path / "out")
    assert not announce(_outcome(run.layout.root), None, run)


def test_nobody_listens_to_the_embedded_engine(tmp_path: Path) -> None:
    run = _run(tmp_path / "out")
    token = engine._EMBEDDED.set(True)
    try:
        assert not announce(_outcome(run.layout.root), None, run)
    finally:
        engine._EMBEDDED.reset(token)
    assert announce(_outcome(run.layout.root), None, run)
