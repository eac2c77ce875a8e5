"""A Prefect server for the session, and a corpus of squares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_HOME, PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from tests.conftest import MakeTar
from tests.squares import Corpus, lay_out
from tests.tiny import write_model


@pytest.fixture(scope="session", autouse=True)
def prefect_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One server for all tests of this folder; its database, results and cache lie in a temporary directory."""
    home = tmp_path_factory.mktemp("prefect-home")
    places = {PREFECT_HOME: home, PREFECT_LOCAL_STORAGE_PATH: home / "storage"}
    with temporary_settings(places), prefect_test_harness(server_startup_timeout=300):
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
