"""Bearing that a server or a storage does not answer: said once, waited for, and an error only in the end."""

from __future__ import annotations

import time

from ecif.errors import UsageError
from ecif.progress import clock
from tasks import ambient


class Patience:
    """How long silence is borne.

    Args:
        seconds: from the first call that failed. Nothing is borne before anybody has ever answered.
        first: what to do when the very first call fails; for the message.
    """

    def __init__(self, seconds: float, first: str) -> None:
        self._seconds, self._first = seconds, first
        self._since: tuple[float, str] | None = None
        self.met = False

    def answered(self) -> None:
        """Everything answers."""
        self.met, self._since = True, None

    def silent(self, why: str) -> None:
        """Something did not answer.

        Raises:
            UsageError: it never has, or it has not for too long.
        """
        now = time.monotonic()
        if not self.met:
            raise UsageError(f"{self._first} ({why})")
        if self._since is None:
            self._since = now, why
            ambient.current().progress.note(f"no answer, waiting: {why}")
        elif now - self._since[0] > self._seconds:
            raise UsageError(f"no answer for {clock(now - self._since[0])}, the first: {self._since[1]}")
