"""A Prefect server for the session, and a corpus of squares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import (
    PREFECT_HOME,
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL,
    temporary_settings,
)
from prefect.testing.utilities import prefect_test_harness

from tests.conftest import MakeTar
from tests.flows.queues import Queue
from tests.squares import Corpus, lay_out
from tests.tiny import write_model


@pytest.fixture(scope="session", autouse=True)
def prefect_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One server for all tests of this folder; its database, results and cache lie in a temporary directory."""
    home = tmp_path_factory.mktemp("prefect-home")
    places = {PREFECT_HOME: home, PREFECT_LOCAL_STORAGE_PATH: home / "storage"}
    # Events are read back: they are written down at once, not every five seconds.
    quick = {PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL: 0.2}
    with temporary_settings({**places, **quick}), prefect_test_harness(server_startup_timeout=300):
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Config and weights of the tiny model."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def corpus(tmp_path: Path, model: tuple[Path, Path], make_tar: MakeTar) -> Corpus:
    """Four shards in groups of one, so that every shard is a task of its own."""
    found = lay_out(tmp_path, model, make_tar)
    found.values["group_size"] = 1
    return found


@pytest.fixture
def queue(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """An empty queue; nobody waits long for messages that are not there."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setattr("flows.sqs.LONG_POLL", 1)
    return Queue(s3_endpoint)
