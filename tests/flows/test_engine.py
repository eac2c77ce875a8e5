"""The embedded engine when it is not needed, cannot start, or is not waited for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_DATABASE_CONNECTION_URL,
    get_current_settings,
    temporary_settings,
)

from ecif.errors import UsageError
from flows import engine, environment


def test_a_configured_server_is_used() -> None:
    done: list[str] = []
    with engine.running(meanwhile=lambda: done.append("work")) as url:
        assert url == get_current_settings().api.url
        assert done == ["work"]


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    home = tmp_path / "file"
    home.write_text("in the way", "utf-8")
    with (
        temporary_settings({PREFECT_HOME: home}, restore_defaults={PREFECT_API_URL}),
        pytest.raises(UsageError, match="set PREFECT_HOME") as refused,
        engine.running(),
    ):
        pass
    assert str(home) in str(refused.value)


def test_a_server_that_does_not_start_leaves_its_log(tmp_path: Path) -> None:
    database = f"sqlite+aiosqlite:///{tmp_path}/no/such/directory/prefect.db"
    changes = {PREFECT_HOME: tmp_path, PREFECT_SERVER_DATABASE_CONNECTION_URL: database}
    with (
        temporary_settings(changes, restore_defaults={PREFECT_API_URL}),
        pytest.raises(UsageError, match=r"did not start: .*ecif-engine\.log"),
        engine.running(),
    ):
        pass
    assert "unable to open database file" in (tmp_path / "ecif-engine.log").read_text("utf-8")


def test_an_error_meanwhile_ends_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def remembered(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(start(*arguments, **options))  # type: ignore[call-overload]
        return started[-1]

    def refuse() -> None:
        raise UsageError("a wrong request")

    monkeypatch.setattr("flows.engine.subprocess.Popen", remembered)
    with (
        temporary_settings({PREFECT_HOME: tmp_path}, restore_defaults={PREFECT_API_URL}),
        pytest.raises(UsageError, match="a wrong request"),
        engine.running(meanwhile=refuse),
    ):
        pass
    (server,) = started
    assert server.returncode is not None


def test_nothing_is_reported_to_anybody_unless_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment.DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    environment.set_defaults()
    code = (
        "from prefect.settings import get_current_settings; found = get_current_settings(); "
        "print(found.server.analytics_enabled, found.logging.level)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert printed.stdout.split() == ["False", "DEBUG"]
    assert os.environ["DO_NOT_TRACK"] == "1"
