"""Out of memory: the micro-batch is halved and the work goes on. The contrastive batch is never touched.

A tower acts on each sample alone, so the micro-batch changes the shapes of matrix products, which is to say the last
digits of a score; docs/devices.md has the measured differences. The contrastive batch is what a softmax runs over:
another one is another score. Where memory is bound by it, or by anything else that the micro-batch has no part in,
the work ends with an error that says by what.

Only the samples that did not fit are run again, so a halving costs a fraction of a second, and the smaller size stays
for the rest of the process. The tensors of a failed attempt hang on the frames of its traceback: nothing is tried
again before the except block is left.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from ecif.errors import DoesNotFitError
from ecif.settings import MethodSettings

T = TypeVar("T")

# What allocators and libraries say that have no exception of their own for it.
_SAID = re.compile(
    "out of memory|not enough memory|can't allocate memory|cannot allocate memory|std::bad_alloc|STATUS_ALLOC_FAILED"
    # oneDNN names the step and not the reason; a descriptor that it cannot create is one for which it has no code.
    "|could not create a primitive(?! descriptor)|could not create a memory object",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator refused, of a device or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _SAID.search(str(error)) is not None


@dataclass(frozen=True, slots=True)
class Refusal:
    """What stands for a result when memory ran out: the first line of what the allocator said."""

    said: str


def tried(work: Callable[[], T]) -> T | Refusal:
    """The result of `work`, or that memory ran out; then all that the attempt allocated is free again."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        refusal = Refusal(_first_line(error))
    release()
    return refusal


def release() -> None:
    """Free what nothing refers to any more, and give memory that CUDA's allocator keeps for reuse back."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@dataclass(slots=True)
class MicroBatch:
    """How many samples go through the towers of one device at once; becomes smaller when they do not fit.

    Attributes:
        size: samples, at least 1. device: for messages. say: told of each halving.
    """

    size: int
    device: torch.device
    say: Callable[[str], None]

    def parts(self, count: int, work: Callable[[slice], T]) -> Iterator[tuple[slice, T]]:
        """`work` on all of `count` samples in order, as many at once as fit: (which, result) of each part.

        Raises:
            DoesNotFitError: a single sample does not.
        """
        start = 0
        while start < count:
            rows = slice(start, min(start + self.size, count))
            found = tried(lambda rows=rows: work(rows))  # type: ignore[misc]
            if isinstance(found, Refusal):
                self._halve(rows.stop - rows.start, found)
                continue
            yield rows, found
            start = rows.stop

    def whole(self, largest: int, work: Callable[[int], T]) -> T:
        """`work(size)` on what cannot be done in parts, again from its start with a smaller size until it fits.

        Args:
            largest: samples that are at once in it now; `work` cuts them to its size.

        Raises:
            DoesNotFitError: one at a time does not fit.
        """
        while True:
            found = tried(lambda: work(self.size))
            if not isinstance(found, Refusal):
                return found
            self._halve(min(largest, self.size), found)

    def _halve(self, failed: int, refusal: Refusal) -> None:
        if failed == 1:
            raise DoesNotFitError(
                f"{self.device}: out of memory with a micro-batch of 1 ({refusal.said}). What remains are the weights, "
                "the trainable parameters with their gradients (--trainable, --columns) and what is held "
                "of a contrastive batch (--batch-size, which changes the scores); or another process uses the device"
            )
        while self.size >= failed:  # the last part of a shard may be smaller than the size
            self.size //= 2
        self.say(
            f"{self.device}: out of memory with {failed:,} samples at once, going on with a micro-batch of "
            f"{self.size:,}; scores stay the same but for rounding (--micro-batch {self.size} saves the attempt)"
        )


@contextmanager
def bounded(device: torch.device, what: str, instead: str) -> Iterator[None]:
    """Memory that the micro-batch has no part in: its lack inside the block ends in a clear error.

    Args:
        what: what it is taken by. instead: what the user can do.

    Raises:
        DoesNotFitError: an allocator refused.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        text = f"{device}: out of memory by {what}, whatever the micro-batch ({_first_line(error)}); {instead}"
        raise DoesNotFitError(text) from error


def batch_bounded(device: torch.device, settings: MethodSettings) -> AbstractContextManager[None]:
    """`bounded` by what grows with the contrastive batch: its matrices, its states, its projected gradients."""
    return bounded(
        device,
        f"what the contrastive batch of {settings.batch_size:,} pairs takes",
        "a smaller --batch-size fits, but it is part of what the scores mean, so that it is not lowered for you; "
        "--trainable heads, fewer --columns or a lower --logra-rank take less, too",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
