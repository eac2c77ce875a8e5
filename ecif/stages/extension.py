"""The earlier fit whose curvature a new one takes over, so that only new shards are mapped.

Curvature is a sum over pairs. The moments that a fit leaves behind are scaled to the corpus it stands for, so those of
disjoint corpora add up; projection and model must be the same. Shards that the earlier inventory lists with the same
name, size and etag are counted once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from safetensors.torch import load as load_tensors
from torch import Tensor

from ecif import inventory
from ecif.finished import find_fit
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.run import Run
from ecif.storage import Storage


@dataclass(frozen=True, slots=True)
class Earlier:
    """A finished fit in another output.

    Attributes:
        facts: its meta.json. shards: the identities (name, size, etag) of its corpus.
    """

    layout: Layout
    key: str
    facts: dict[str, Any]
    shards: frozenset[tuple[str, int, str]]

    @property
    def corpus_pairs(self) -> int:
        """N of that fit."""
        return int(self.facts["N"])

    def holds(self, shard: Shard) -> bool:
        """Whether the shard is part of that corpus."""
        return (shard.name, shard.size, shard.etag) in self.shards

    def projection(self, storage: Storage) -> dict[str, Tensor]:
        """The tensors of its projection."""
        return load_tensors(storage.read_bytes(self.layout.projection(self.key)))

    def moments(self) -> str:
        """URL of its moments, scaled to its corpus."""
        return self.layout.moments(self.key)


def earlier(run: Run) -> Earlier | None:
    """The fit that the settings extend.

    Raises:
        UsageError: it is not there.
    """
    if not run.settings.extend:
        return None
    layout, key = find_fit(run.settings.extend, run.storage)
    facts = run.storage.read_json(layout.fit_meta(key))
    listed = inventory.load(layout, run.storage).shards
    return Earlier(layout, key, facts, frozenset((shard.name, shard.size, shard.etag) for shard in listed))
