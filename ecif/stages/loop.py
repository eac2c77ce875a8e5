"""Work through shards one after the other; a shard that fails is set aside with its reason, the others go on.

What counts as the shard's own failure: a problem of its files (`InputError`), or an unexpected exception, which is
reported with its traceback. Errors of the request itself (a wrong setting, a model that does not load) would hit
every shard alike, so they end the loop at once.
"""

from __future__ import annotations

import itertools
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ecif import logs
from ecif.errors import EcifError, InputError, StorageError, TooManyFailedError, no_room
from ecif.progress import Progress
from ecif.storage.secrets import redact


class Named(Protocol):
    """A shard, of the input or packed anew."""

    @property
    def name(self) -> str:
        """The name that failures are told by."""


S = TypeVar("S", bound=Named)
R = TypeVar("R")

# Reasons that the error of too many failures tells.
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Failure:
    """A shard that was set aside."""

    shard: str
    error: Exception

    @property
    def reason(self) -> str:
        """The error's message; an unexpected exception also names its type."""
        if isinstance(self.error, EcifError):
            return str(self.error)
        first = (str(self.error).splitlines() or [""])[0]
        return f"unexpected {type(self.error).__name__}: {redact(first)}"

    @property
    def passing(self) -> bool:
        """Whether the data are not to blame, so that another run may succeed."""
        return isinstance(self.error, StorageError) or not isinstance(self.error, InputError)


@dataclass(frozen=True, slots=True)
class Worked(Generic[R]):
    """What came of a loop: the results in the order of the shards, and the failures."""

    results: tuple[R, ...]
    failed: tuple[Failure, ...]


def bear(failed: Mapping[str, str], most: int | None) -> None:
    """Go on as long as no more than `most` shards have failed.

    Args:
        failed: reasons by shard.

    Raises:
        TooManyFailedError: with the first reasons.
    """
    if most is None or len(failed) <= most:
        return
    shown = "; ".join(f"{shard}: {reason}" for shard, reason in itertools.islice(failed.items(), _SHOWN))
    more = f"; and {len(failed) - _SHOWN:,} more" if len(failed) > _SHOWN else ""
    raise TooManyFailedError(
        f"stopped: {len(failed):,} shards failed, and --max-failed is {most:,}; what is finished is kept, the same "
        f"command again does the rest ({shown}{more})"
    )


def over(
    shards: Iterable[S],
    work: Callable[[S], R],
    progress: Progress,
    stop: threading.Event | None = None,
    max_failed: int | None = None,
) -> Worked[R]:
    """Call `work` for each shard.

    Args:
        stop: once set, no further shard is begun; those not begun are in neither list.
        max_failed: end when more shards than this have failed.

    Raises:
        TooManyFailedError: see `max_failed`.
        EcifError: a problem that is not the shard's, see above.
    """
    results: list[R] = []
    failed: list[Failure] = []
    for shard in shards:
        if stop is not None and stop.is_set():
            break
        with logs.about(shard=shard.name):
            try:
                results.append(work(shard))
            except InputError as error:
                failed.append(Failure(shard.name, error))
            except EcifError:
                raise
            except Exception as error:
                full = no_room(error)
                if full is None:
                    text = traceback.format_exc().rstrip()
                    progress.note(f"{shard.name}: unexpected error, the shard is set aside\n{text}")
                failed.append(Failure(shard.name, full or error))
        bear({failure.shard: failure.reason for failure in failed}, max_failed)
    return Worked(tuple(results), tuple(failed))
