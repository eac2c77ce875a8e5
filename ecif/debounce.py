"""Wait until it has become quiet before speaking: one word for many notifications of the same place.

Whoever uploads a thousand shards makes a thousand notifications. A place is due when nothing has come for it for
`quiet` seconds, so that what is started finds everything; and at the latest `longest` seconds after the first, so that
an upload that never ends does not wait for ever. No clock runs here: the caller says what time it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

R = TypeVar("R")


@dataclass(slots=True)
class _Waiting(Generic[R]):
    first: float
    last: float
    receipts: list[R] = field(default_factory=list)


class Debounce(Generic[R]):
    """Places that something has come for, each with the receipts of what has come.

    Args:
        quiet, longest: seconds, see above.
    """

    def __init__(self, quiet: float, longest: float) -> None:
        self._quiet, self._longest = quiet, longest
        self._waiting: dict[str, _Waiting[R]] = {}

    def __len__(self) -> int:
        """Receipts that are held."""
        return sum(len(waiting.receipts) for waiting in self._waiting.values())

    def add(self, place: str, receipt: R, now: float) -> None:
        """Something has come for a place."""
        waiting = self._waiting.setdefault(place, _Waiting(now, now))
        waiting.last = now
        waiting.receipts.append(receipt)

    def due(self, now: float) -> list[str]:
        """The places of which it is time to speak."""
        return [
            place
            for place, waiting in self._waiting.items()
            if now - waiting.last >= self._quiet or now - waiting.first >= self._longest
        ]

    def places(self) -> list[str]:
        """All places that wait."""
        return [*self._waiting]

    def receipts(self, place: str) -> list[R]:
        """What is held for a place."""
        return self._waiting[place].receipts

    def forget(self, place: str) -> None:
        """It has been spoken of."""
        del self._waiting[place]
