"""Work through shards one after the other; a shard that fails is set aside with its reason, the others go on.

What counts as the shard's own failure: a problem of its files (`InputError`), or an unexpected exception, which is
reported with its traceback. Errors of the request itself (a wrong setting, a model that does not load) would hit
every shard alike, so they end the loop at once.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ecif.errors import EcifError, InputError, StorageError
from ecif.inventory import Shard
from ecif.progress import Progress

R = TypeVar("R")


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
        return f"unexpected {type(self.error).__name__}: {first}"

    @property
    def passing(self) -> bool:
        """Whether the data are not to blame, so that another run may succeed."""
        return isinstance(self.error, StorageError) or not isinstance(self.error, InputError)


@dataclass(frozen=True, slots=True)
class Worked(Generic[R]):
    """What came of a loop: the results in the order of the shards, and the failures."""

    results: tuple[R, ...]
    failed: tuple[Failure, ...]


def over(
    shards: Iterable[Shard], work: Callable[[Shard], R], progress: Progress, stop: threading.Event | None = None
) -> Worked[R]:
    """Call `work` for each shard.

    Args:
        stop: once set, no further shard is begun; those not begun are in neither list.

    Raises:
        EcifError: a problem that is not the shard's, see above.
    """
    results: list[R] = []
    failed: list[Failure] = []
    for shard in shards:
        if stop is not None and stop.is_set():
            break
        try:
            results.append(work(shard))
        except InputError as error:
            failed.append(Failure(shard.name, error))
        except EcifError:
            raise
        except Exception as error:
            progress.note(f"{shard.url}: unexpected error, the shard is set aside\n{traceback.format_exc().rstrip()}")
            failed.append(Failure(shard.name, error))
    return Worked(tuple(results), tuple(failed))
