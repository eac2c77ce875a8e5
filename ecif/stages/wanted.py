"""Which score columns a run wants, by the moment at which each is computed, and what they need."""

from __future__ import annotations

from dataclasses import dataclass

from ecif import detectors
from ecif.detectors import Need
from ecif.settings import MethodSettings


@dataclass(frozen=True, slots=True)
class Wanted:
    """The columns of a run by level, without `influence`, which is the sum of two others.

    Attributes:
        needs: of all of them. index: whether projected gradients are kept.
    """

    batch: tuple[str, ...]
    shard: tuple[str, ...]
    relative: tuple[str, ...]
    needs: frozenset[Need]
    index: bool

    @classmethod
    def of(cls, settings: MethodSettings) -> Wanted:
        """What the settings ask for."""
        names = [name for name in (*detectors.NAMES, *settings.columns) if name != "influence"]
        by_level = {
            level: tuple(name for name in names if detectors.facts(name).level == level)
            for level in ("batch", "shard", "relative")
        }
        needs = frozenset(need for name in names for need in detectors.facts(name).needs)
        return cls(by_level["batch"], by_level["shard"], by_level["relative"], needs, settings.index)

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, in the order of the score files."""
        return (*self.batch, *self.shard, *self.relative)

    def gradients(self, *, heads: bool) -> bool:
        """Whether projected per-sample gradients are wanted."""
        of_lengths = heads and bool(self.needs & {"lengths:inverse", "lengths:root"})
        return self.index or of_lengths or any(need.startswith("gradients:") for need in self.needs)

    def probes(self, *, heads: bool) -> tuple[str, ...]:
        """Kinds of probes: lengths that no projected gradients give."""
        kinds = ("raw",) if heads else ("inverse", "root", "raw")
        return tuple(kind for kind in kinds if f"lengths:{kind}" in self.needs)
