"""The loop over shards: who is set aside, and what ends it."""

from __future__ import annotations

import threading

import pytest

from ecif.errors import (
    EXIT_SHARDS_FAILED,
    BadTarError,
    ConflictError,
    EcifError,
    ModelError,
    StorageError,
    TooManyFailedError,
    UsageError,
)
from ecif.inventory import Shard
from ecif.stages import loop
from tests.squares import Notes

SHARDS = [Shard(name, f"/in/{name}.tar", 1, "e", 1, None, None) for name in ("a", "b", "c")]


def _failing(error: Exception) -> loop.Worked[str]:
    def work(shard: Shard) -> str:
        if shard.name == "b":
            raise error
        return shard.name

    return loop.over(SHARDS, work, Notes())


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (BadTarError("is cut", url="/in/b.tar", offset=512), False),
        (ConflictError("is taken", url="/out/b.tar"), False),
        (StorageError("is unreachable", url="/in/b.tar"), True),
        (RuntimeError("first line\nsecond line"), True),
    ],
)
def test_a_shard_that_fails_is_set_aside_and_the_others_go_on(error: Exception, passing: bool) -> None:
    worked = _failing(error)
    assert worked.results == ("a", "c")
    (failure,) = worked.failed
    assert (failure.shard, failure.error, failure.passing) == ("b", error, passing)
    assert "\n" not in failure.reason


@pytest.mark.parametrize("error", [UsageError("wrong"), ModelError("does not load"), KeyboardInterrupt()])
def test_what_would_hit_every_shard_ends_the_loop(error: BaseException) -> None:
    with pytest.raises(type(error)):
        _failing(error)  # type: ignore[arg-type]


def test_an_unexpected_error_is_named_and_its_traceback_shown() -> None:
    notes = Notes()

    def work(shard: Shard) -> None:
        raise ZeroDivisionError("by zero")

    worked = loop.over(SHARDS[:1], work, notes)
    assert worked.failed[0].reason == "unexpected ZeroDivisionError: by zero"
    (note,) = notes.notes
    assert note.startswith("a: unexpected error")
    assert "raise ZeroDivisionError" in note


def test_a_problem_of_the_data_has_no_traceback() -> None:
    notes = Notes()

    def work(shard: Shard) -> None:
        raise BadTarError("is cut", url=shard.url)

    loop.over(SHARDS, work, notes)
    assert notes.notes == []


def test_nothing_is_begun_after_the_stop() -> None:
    stop = threading.Event()
    begun: list[str] = []

    def work(shard: Shard) -> None:
        begun.append(shard.name)
        stop.set()

    worked = loop.over(SHARDS, work, Notes(), stop)
    assert begun == ["a"]
    assert (len(worked.results), worked.failed) == (1, ())


def test_every_refusal_is_either_the_shards_or_the_requests() -> None:
    """A new kind of error has to be sorted on purpose. Those of the rooms above end a run."""
    kinds = {kind.__name__ for kind in EcifError.__subclasses__() if kind.__module__.startswith("ecif.")}
    assert kinds == {"UsageError", "InputError", "ModelError", "TooManyFailedError"}


def test_too_many_failures_end_the_loop() -> None:
    begun = []

    def work(shard: Shard) -> None:
        begun.append(shard.name)
        raise BadTarError("is cut", url=shard.url, offset=512)

    assert len(loop.over(SHARDS, work, Notes(), max_failed=3).failed) == 3
    begun.clear()
    with pytest.raises(TooManyFailedError, match=r"2 shards failed, and --max-failed is 1; .*a: /in/a.*b: /in/b") as e:
        loop.over(SHARDS, work, Notes(), max_failed=1)
    assert begun == ["a", "b"]
    assert e.value.exit_code == EXIT_SHARDS_FAILED
