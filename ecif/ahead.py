"""Call a slow function on many items a few steps ahead, and hand out the results in order.

Reading small files from object storage waits far more than it works: sixteen requests at a time hide most of it, while
only sixteen results are held. Results and errors come in the order of the items, as if they had been taken one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

DEPTH = 16


def ahead(function: Callable[[T], R], items: Iterable[T], depth: int = DEPTH) -> Generator[R, None, None]:
    """`map(function, items)` with up to `depth` calls under way in threads."""
    with ThreadPoolExecutor(depth, thread_name_prefix="ahead") as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
