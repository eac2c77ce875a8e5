"""What a run holds only in memory: storage options, which may be secret, and where its progress is shown.

Prefect keeps parameters of runs in its database in the clear, so secrets must not be parameters. `ecif clean` on the
embedded engine hands them over here: Prefect copies the context into the threads of its task runner. A deployment
has no such parent; there the storage finds its credentials as its library does by default (environment, files,
instance roles), or in ECIF_STORAGE_OPTIONS and ECIF_ALLOW, which the settings read from the worker's environment.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from ecif import logs
from ecif.fields import build
from ecif.progress import Progress
from ecif.settings import Settings, saved


@dataclass(frozen=True, slots=True)
class Ambient:
    """The part of a run that is never written down.

    Attributes:
        private: the settings that are not saved, by name.
        stop: set when the run is to end early; loops over shards look at it.
    """

    progress: Progress = field(default_factory=logs.progress)
    private: Mapping[str, Any] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def settings(self, public: Mapping[str, Any]) -> Settings:
        """The whole settings again, from their public part.

        Raises:
            UsageError: a setting is unknown or wrong.
        """
        return build(Settings, {**public, **self.private})


_CURRENT: ContextVar[Ambient | None] = ContextVar("ecif_ambient", default=None)


def current() -> Ambient:
    """What the caller of this run has put here, or plain defaults."""
    return _CURRENT.get() or Ambient()


@contextmanager
def during(ambient: Ambient) -> Iterator[Ambient]:
    """Make `ambient` the current one inside the block, in this thread and the threads of its tasks."""
    token = _CURRENT.set(ambient)
    try:
        yield ambient
    finally:
        _CURRENT.reset(token)


def private(settings: Settings) -> dict[str, Any]:
    """The settings that `saved` leaves out because they may hold secrets."""
    public = saved(settings)
    return {name: getattr(settings, name) for name in type(settings).model_fields if name not in public}
