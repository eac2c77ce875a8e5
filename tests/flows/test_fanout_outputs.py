"""Outputs as progress: each counted once, and not listed more often than it pays."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ecif.inventory import Shard
from flows.fanout.outputs import SHARE, Outputs

SHARDS = [Shard(f"{n:03d}", f"memory://in/{n:03d}.tar", n, f"{n}", 1, None, None) for n in range(4)]


class Clock:
    """Seconds that pass only when somebody lists."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_every_output_is_told_once_and_others_do_not_count() -> None:
    made, told = {"elsewhere"}, []

    def came(shards: Sequence[Shard], through: int) -> None:
        told.append(([shard.name for shard in shards], through))

    outputs = Outputs(lambda: made, SHARDS, came)
    assert outputs.look(fresh=True) == set()
    made |= {"002", "000"}
    assert outputs.look(fresh=True) == {"000", "002"}
    assert outputs.look(fresh=True) == {"000", "002"}
    made |= {"001"}
    outputs.look(fresh=True)
    assert told == [(["000", "002"], 2), (["001"], 3)]


def test_a_long_listing_is_not_repeated_before_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, listed = Clock(), []
    monkeypatch.setattr("flows.fanout.outputs.time", clock)

    def slow() -> set[str]:
        clock.now += 3.0
        listed.append(clock.now)
        return set()

    outputs = Outputs(slow, SHARDS, lambda shards, through: None)
    outputs.look()
    clock.now += SHARE * 3.0 - 1
    outputs.look()
    assert len(listed) == 1
    outputs.look(fresh=True)
    assert len(listed) == 2
    clock.now += SHARE * 3.0 + 1
    outputs.look()
    assert len(listed) == 3
