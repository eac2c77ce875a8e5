"""Which attention kernels run: fused ones in the stems, the math kernel where something is differentiated.

Forward-mode differentiation does not exist for fused kernels, nor for nn.MultiheadAttention's fast path. PyTorch keeps
both choices for the process, not for the thread, and the levels of forward mode, too. A process with several devices
computes on them in threads of its own: one in a stem and one in a tail would take each other's kernels (an error in
the tail, other last digits in the stem), and two in tails would end each other's derivatives. So stems run side by
side, tails one at a time, in the order in which they come. What waits is the launch of work; devices go on with what
they were given. One process per device does not wait at all.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


class _Turns:
    """A lock that is shared by stems and held by one tail alone; first come, first served."""

    def __init__(self) -> None:
        self._door = threading.Condition()
        self._queue: deque[object] = deque()
        self._inside = 0
        self._alone = False
        self._mine = threading.local()

    @contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        if getattr(self._mine, "inside", False):  # the outermost choice holds
            yield
            return
        with ExitStack() as changed:
            self._enter(alone)
            self._mine.inside = True
            changed.callback(self._leave)
            if alone:
                changed.enter_context(_math())
            yield

    def _enter(self, alone: bool) -> None:
        me = object()
        with self._door:
            self._queue.append(me)
            try:
                while self._queue[0] is not me or self._alone or (alone and self._inside):
                    self._door.wait()
                self._inside += 1
                self._alone = alone
            finally:
                self._queue.remove(me)
                self._door.notify_all()

    def _leave(self) -> None:
        self._mine.inside = False
        with self._door:
            self._inside -= 1
            self._alone = False
            self._door.notify_all()


_TURNS = _Turns()


@contextmanager
def differentiable_attention() -> Iterator[None]:
    """Attention that has forward-mode derivatives, for one thread at a time: the math kernel, without the fast path."""
    with _TURNS.turn(alone=True):
        yield


@contextmanager
def fused_attention() -> Iterator[None]:
    """Attention as fast as it is; inside `differentiable_attention` no change."""
    with _TURNS.turn(alone=False):
        yield


@contextmanager
def _math() -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
