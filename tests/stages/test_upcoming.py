"""The next shard is on its way while one is finished; scores, errors and memory are as without."""

from __future__ import annotations

import threading
from pathlib import Path

import polars as pl
import pytest

from ecif.errors import InputError
from ecif.progress import Silent
from ecif.stages import loop, score
from ecif.stages.upcoming import Upcoming
from tests.stages.test_fit import corpus as corpus  # the fixture
from tests.stages.test_fit import fit_all, prepare


def threads() -> set[str]:
    return {one.name for one in threading.enumerate() if one.name == "read" or one.name.startswith("decode")}


def frames(root: Path, out: Path, *, ahead: bool, **changes: object) -> list[pl.DataFrame]:
    run, engine = prepare(root, out=str(out), **changes)
    fit_all(run, engine)
    direction, shards = score.load_direction(run, engine), run.inventory.shards
    with Upcoming(run, engine, shards) as upcoming:
        for shard in shards:
            score.score_shard(run, engine, shard, direction, upcoming=upcoming if ahead else None)
    assert threads() == set()
    return [pl.read_parquet(run.layout.scores(run.score_key, shard.name)) for shard in shards]


@pytest.mark.parametrize("workers", [0, 2])
def test_scores_are_the_same_to_the_last_bit(corpus: Path, tmp_path: Path, workers: int) -> None:
    without = frames(corpus, tmp_path / "a", ahead=False, workers=workers)
    assert len(without) > 1
    for one, other in zip(without, frames(corpus, tmp_path / "b", ahead=True, workers=workers), strict=True):
        assert one.equals(other)


def test_what_was_begun_is_taken_and_what_was_passed_over_is_closed(corpus: Path) -> None:
    run, engine = prepare(corpus, workers=1)
    first, second, *_ = run.inventory.shards
    with Upcoming(run, engine, run.inventory.shards) as upcoming:
        with upcoming.take(first) as samples:
            assert len([item for task in samples for item in task]) == first.samples
        upcoming.through(first)
        assert threads() != set()
        begun = upcoming.take(second)
        with begun as samples:
            assert len([item for task in samples for item in task]) == second.samples
        upcoming.through(first)
        with upcoming.take(first) as samples:  # another one than was begun
            assert len([item for task in samples for item in task]) == first.samples
        upcoming.through(first)
    assert threads() == set()


def test_a_shard_that_cannot_be_read_fails_in_its_turn(corpus: Path) -> None:
    run, engine = prepare(corpus)
    fit_all(run, engine)
    direction, shards = score.load_direction(run, engine), run.inventory.shards
    broken = Path(shards[1].url)
    broken.write_bytes(broken.read_bytes()[:700])
    with Upcoming(run, engine, shards) as upcoming:
        worked = loop.over(
            shards, lambda shard: score.score_shard(run, engine, shard, direction, upcoming=upcoming), Silent()
        )
    assert [failure.shard for failure in worked.failed] == [shards[1].name]
    assert isinstance(worked.failed[0].error, InputError)
    assert len(worked.results) == len(shards) - 1
    assert threads() == set()
