"""Who is left and who went, from the score table and the ledger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ecif.errors import InputError
from ecif.interop import outcome
from ecif.restores import claim
from ecif.stages.loop import Failure
from ecif.stages.restore import restore_shard
from tests.interop.cleaned import Cleaned, key, uid
from tests.stages.outputs import SCORE_KEY


def test_each_shard_or_what_is_wrong_with_it(done: Cleaned) -> None:
    layout, storage, shards = done.output.layout, done.output.storage, done.output.inventory.shards
    Path(layout.manifest("00000001")).unlink()
    Path(layout.scores(SCORE_KEY, "00000002")).write_bytes(b"")
    failed: dict[str, Failure] = {}
    found = list(outcome.each(shards, layout, storage, failed))
    assert [shard.name for shard, _ in found] == ["00000000"]
    samples = found[0][1].samples
    assert samples.columns == ["index", "key", "uid", "gone"]
    assert samples["uid"].to_list() == [uid(key(0, index)) for index in range(6)]
    assert samples["gone"].to_list() == [True] * 3 + [False] * 3
    assert list(failed) == ["00000001", "00000002"]
    assert "not finished; run apply" in failed["00000001"].reason
    assert layout.scores(SCORE_KEY, "00000002") in failed["00000002"].reason


def test_restored_samples_are_left_again(done: Cleaned) -> None:
    layout, storage, shards = done.output.layout, done.output.storage, done.output.inventory.shards
    (back,) = claim(layout, storage, done.decision.key, {"00000000": {1: key(0, 1)}, "00000001": {2: key(1, 2)}})
    restore_shard(shards[0], back, done.decision, layout, storage)
    # That of the second shard is claimed, but not there yet.
    assert outcome.came_back(layout, storage) == {"00000000": {1}}
    (_, first), (_, second), _ = outcome.each(shards, layout, storage, {})
    assert first.samples["gone"].to_list() == [True, False, True, False, False, False]
    assert second.samples["gone"].to_list() == [True] * 3 + [False] * 3


def test_a_ledger_that_does_not_fit(done: Cleaned) -> None:
    recorded = done.manifests[0]
    other = replace(recorded, files={kind: mark for kind, mark in recorded.files.items() if kind != "ledger"})
    with pytest.raises(InputError, match="tell of 0 gone of 6 samples, the manifest of 3 of 6"):
        outcome.read(other, done.output.layout, done.output.storage)
