"""The shards of a loop: while one is finished, the next one is on its way already.

Between the last sample of a shard and the first of the next one lie the algebra of its batches, the writing of its
table, the opening of a tar and the decoding of a first micro-batch. The device waits for the last two of these unless
they are begun before the first two. That is all that is begun: one shard, as far as `Engine.begin` reads ahead, so that
the memory is that of one shard on its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Self

from ecif.inventory import Shard
from ecif.run import Run
from ecif.stages.engine import Begun, Engine
from ecif.stages.reading import read_pairs


class Upcoming:
    """Samples of shards that come in a known order; to be closed.

    Args:
        shards: in the order in which they will be asked for; others may be asked for, too.
    """

    def __init__(self, run: Run, engine: Engine, shards: Sequence[Shard]) -> None:
        self._run, self._engine = run, engine
        self._after = {before.name: after for before, after in pairwise(shards)}
        self._begun: tuple[str, Begun] | None = None

    def take(self, shard: Shard) -> Begun:
        """The samples of a shard, begun already or now; closed by whoever took them."""
        begun, self._begun = self._begun, None
        if begun is None:
            return self._begin(shard)
        if begun[0] == shard.name:
            return begun[1]
        with begun[1]:  # of a shard that was passed over
            return self._begin(shard)

    def through(self, shard: Shard) -> None:
        """Begin what follows a shard whose samples are all taken."""
        if self._begun is None and (after := self._after.get(shard.name)) is not None:
            self._begun = after.name, self._begin(after)

    def close(self) -> None:
        """Give up what was begun and not taken."""
        begun, self._begun = self._begun, None
        if begun is not None:
            begun[1].__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, shard: Shard) -> Begun:
        run, limits = self._run, self._engine.limits
        return self._engine.begin(
            read_pairs(shard.url, shard.name, run.storage, run.settings.caption, limits, shard.info)
        )
