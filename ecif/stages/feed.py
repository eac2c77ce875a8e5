"""Work on what a source gives, ahead of whoever takes the results, which come in the order of the source.

One thread reads the source and `workers` threads work, so that reading, working and what is done with the results
overlap. At most `depth` items are read and not taken, whatever the speeds are: that bounds the memory. The results do
not depend on the number of threads. An error of the source comes at its place, behind the results before it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from queue import SimpleQueue
from typing import Generic, Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Feed(Generic[R]):
    """An iterator over the results; to be closed, which ends its threads.

    Args:
        function: called in one of the threads for each item.
        items: only the reading thread touches it. If it can be closed, it is, by that thread.
        workers: threads that work, at least one. depth: items ahead of the caller.
    """

    def __init__(self, function: Callable[[T], R], items: Iterator[T], workers: int, depth: int) -> None:
        self._pool = ThreadPoolExecutor(workers, "decode")
        self._waiting: SimpleQueue[Future[R] | None] = SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._stopped = self._ended = False
        # The context goes along for what storage logs about the shard. A daemon, so that a process that is told to end
        # does not wait for a server.
        begin = copy_context().run
        self._reader = threading.Thread(target=begin, args=(self._read, function, items), name="read", daemon=True)
        self._reader.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> R:
        if self._ended:
            raise StopIteration
        future = self._waiting.get()
        if future is None:
            self._ended = True
            raise StopIteration
        try:
            return future.result()
        except BaseException:
            self._ended = True
            raise
        finally:
            self._room.release()

    def close(self) -> None:
        """Give up what is not taken yet, and wait for the threads; what the source is doing is not broken off."""
        self._stopped = self._ended = True
        self._room.release()
        self._reader.join()
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, function: Callable[[T], R], items: Iterator[T]) -> None:
        end: Future[R] | None = None
        try:
            while self._has_room():
                self._waiting.put(self._pool.submit(function, next(items)))
        except StopIteration:
            pass
        except BaseException as error:  # whatever it is, it belongs to the caller
            end = Future()
            end.set_exception(error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
            self._waiting.put(end)

    def _has_room(self) -> bool:
        self._room.acquire()
        return not self._stopped
