"""Places to store in: a directory and fsspec's memory."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else str(request.getfixturevalue("memory_root"))
