"""How many shards a group holds: fixed, or by what the groups before took.

A group costs a process and a model before its first shard, and is what is lost and sent again when a machine goes;
so it should take minutes, whatever the device and the shards. The first groups are small, because nothing is known
yet; from then on a group holds what fits into the seconds that are wanted. Two bounds: towards the end the shards that
are left are shared among all workers, and a stage has about 2,000 groups at most, since each is a run and a row in
Prefect's database.
"""

from __future__ import annotations

import threading

FIRST = 4
GROWTH = 8  # from one group to the next at most: a first measurement may be of an easy shard
MOST_GROUPS = 2_000
NEWEST = 0.5  # weight of the newest measurement in the mean


class Sizes:
    """Sizes of the groups of one stage.

    Args:
        fixed: shards per group, if that was asked for.
        seconds: that a group should take.
        workers: groups at the same time.
        total: shards of the stage.
    """

    def __init__(self, fixed: int | None, seconds: float, workers: int, total: int) -> None:
        self._fixed, self._seconds, self._workers = fixed, seconds, max(1, workers)
        self._least = -(-total // MOST_GROUPS)
        self._largest = FIRST
        self._per_shard: float | None = None
        self._lock = threading.Lock()

    def measured(self, shards: int, seconds: float) -> None:
        """Learn that a group of `shards` took so long."""
        if not shards:
            return
        with self._lock:
            mine = max(seconds / shards, 1e-6)
            before = self._per_shard
            self._per_shard = mine if before is None else (1 - NEWEST) * before + NEWEST * mine

    def __call__(self, left: int) -> int:
        """Shards of the next group, of `left` that are to be done; at least 1."""
        if self._fixed is not None:
            return self._fixed
        with self._lock:
            size = FIRST
            if self._per_shard is not None:
                size = min(int(self._seconds / self._per_shard), GROWTH * self._largest)
            shared = -(-left // self._workers)
            size = max(1, min(max(size, self._least), shared))
            self._largest = max(self._largest, size)
            return size
