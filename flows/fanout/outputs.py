"""Which shards of a stage have outputs: asked of the storage, not too often, and shown as progress.

A listing is the truth, and costs a request per thousand files of the whole output; so looks that nothing hangs on are
answered from the last one until twenty times what it took has passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from ecif.inventory import Shard

# A listing may take this share of the time at most.
SHARE = 20


class Outputs:
    """Outputs of the shards of a stage.

    Args:
        listed: names of all shards that have the stage's output: one listing.
        shards: those that are to be done.
        came: called with the shards whose outputs were not there at the look before, and how many are there now.
    """

    def __init__(
        self,
        listed: Callable[[], AbstractSet[str]],
        shards: Sequence[Shard],
        came: Callable[[Sequence[Shard], int], None],
    ) -> None:
        self._listed, self._came = listed, came
        self._missing = {shard.name: shard for shard in shards}
        self._present: set[str] = set()
        self._again = 0.0

    def look(self, *, fresh: bool = False) -> AbstractSet[str]:
        """Names of the shards of the stage that have outputs; with `fresh` as of now.

        Raises:
            StorageError: the storage cannot be listed.
        """
        started = time.monotonic()
        if fresh or started >= self._again:
            found = self._listed()
            ended = time.monotonic()
            self._again = ended + SHARE * (ended - started)
            new = [shard for name, shard in self._missing.items() if name in found]
            for shard in new:
                del self._missing[shard.name]
            self._present.update(shard.name for shard in new)
            if new:
                self._came(new, len(self._present))
        return self._present
