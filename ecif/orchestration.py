"""How commands find the orchestration: by entry points, because this package knows none."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from ecif.errors import UsageError


def orchestrator(name: str) -> Any:
    """The function that carries a command out.

    Raises:
        UsageError: nothing is installed that does.
    """
    found = metadata.entry_points(group="ecif.orchestrator", name=name)
    if not found:
        raise UsageError("no orchestration is installed; install this package with pip, or run its stages one by one")
    return next(iter(found)).load()
