"""The flow `watch`: what it starts, when it starts it again, and that it starts nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed, Running, Scheduled

from ecif.errors import MissingFileError, UsageError
from ecif.settings import saved
from flows.clean import clean
from flows.notify import ServerError
from flows.superseded import supersede
from flows.watch import FIRST_PAUSE, LONGEST_PAUSE, Watched, pause, run_watch, watch
from tests.conftest import MakeTar
from tests.squares import Corpus, Notes, files, pairs


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    """A client of the test server."""
    with get_client(sync_client=True) as found:
        yield found


@pytest.fixture
def deployment(client: SyncPrefectClient) -> tuple[str, UUID]:
    """A deployment of `clean` that no worker serves: its name, and its id."""
    name = f"arrivals-{uuid.uuid4().hex[:8]}"
    target = client.create_deployment(client.create_flow(clean), name, entrypoint="flows/clean.py:clean")
    return f"clean/{name}", target


def _look(corpus: Corpus, deployment: str | None, **options: Any) -> Watched:
    found = watch([str(corpus.raw)], saved(corpus.settings()), deployment=deployment, quiet=0, **options)
    return Watched(**found)


def _end(client: SyncPrefectClient, run: str | None, state: Any) -> FlowRun:
    client.set_flow_run_state(str(run), Running(), force=True)
    client.set_flow_run_state(str(run), state, force=True)
    return client.read_flow_run(UUID(run))


def test_one_run_is_started_for_the_same_shards(
    corpus: Corpus, client: SyncPrefectClient, deployment: tuple[str, UUID]
) -> None:
    first = _look(corpus, deployment[0])
    assert (first.found, first.new, first.unfinished, first.started, first.prefix) == (4, 4, 0, True, None)
    run = client.read_flow_run(UUID(first.run))
    assert run.deployment_id == deployment[1]
    assert clean.validate_parameters(run.parameters)["settings"] == saved(corpus.settings())
    assert run.parameters["sources"] == [str(corpus.raw)]
    again = _look(corpus, deployment[0])
    assert (again.run, again.started) == (first.run, False)
    assert run.name in again.said
    assert not corpus.out.exists()


def test_more_shards_are_another_run_unless_one_waits(
    corpus: Corpus, make_tar: MakeTar, client: SyncPrefectClient, deployment: tuple[str, UUID]
) -> None:
    first = _look(corpus, deployment[0])
    (corpus.raw / "00004.tar").write_bytes(make_tar(pairs(4)))
    second = _look(corpus, deployment[0])
    assert (second.new, second.started, second.run) == (5, False, first.run)
    assert second.said.endswith(" waits for its turn")
    client.set_flow_run_state(UUID(first.run), Running(), force=True)
    third = _look(corpus, deployment[0])
    assert (third.new, third.started) == (5, True)
    assert third.run != first.run


@pytest.mark.parametrize("state", [Failed(), Completed()], ids=["failed", "completed"])
def test_what_a_run_has_not_finished_is_tried_again_after_a_pause(
    corpus: Corpus, client: SyncPrefectClient, deployment: tuple[str, UUID], state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _look(corpus, deployment[0])
    ended = _end(client, first.run, state)
    waits = _look(corpus, deployment[0])
    assert (waits.started, waits.run) == (False, first.run)
    assert "1 runs have not finished them; tried again in " in waits.said
    assert ended.end_time is not None
    assert ended.end_time + pause(1) > datetime.now(UTC)
    monkeypatch.setattr("flows.watch.FIRST_PAUSE", timedelta(0))
    again = _look(corpus, deployment[0])
    assert again.started
    assert again.run != first.run
    assert _look(corpus, deployment[0]).run == again.run


def test_pauses_double_up_to_a_day() -> None:
    assert [pause(attempts) for attempts in range(4)] == [timedelta(0), FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pause(1_000) == LONGEST_PAUSE


def test_here_it_cleans_what_is_new_and_then_nothing_whatever_events_say(corpus: Corpus, make_tar: MakeTar) -> None:
    first = _look(corpus, None)
    assert (first.new, first.started) == (4, True)
    assert first.said == "4 shards, 4 of them new: 4 are written, 0 failed"
    before = _lasting(corpus)
    nothing = _look(corpus, None)
    assert (nothing.new, nothing.unfinished, nothing.started) == (0, 0, False)
    assert nothing.said == "4 shards, 0 of them new: nothing to do"
    assert _lasting(corpus) == before
    (corpus.raw / "day").mkdir()
    (corpus.raw / "day" / "00000.tar").write_bytes(make_tar(pairs(5)))
    arrived = _look(corpus, None)
    assert (arrived.new, arrived.prefix) == (1, f"{corpus.raw}/day/")
    after = _lasting(corpus)
    assert "_ecif/manifest/day/00000.json" in after
    assert {name: after[name] for name in before} == before
    # Late, repeated, and odd ones.
    for prefix in (f"{corpus.raw}/day/", f"{corpus.raw}/nowhere/"):
        clean([str(corpus.raw)], saved(corpus.settings()), prefix)
    assert _lasting(corpus) == after


def _lasting(corpus: Corpus) -> dict[str, tuple[bytes, int]]:
    """The files of the output but derived views, and notes of what was told to whom."""
    passing = ("_ecif/report/", "_ecif/index/", "_ecif/announced/")
    return {name: file for name, file in files(corpus.out).items() if not name.startswith(passing)}


def test_the_command_looks_once_and_repeats_a_damaged_shard_only_after_a_pause(corpus: Corpus) -> None:
    bad = corpus.raw / "00002.tar"
    bad.write_bytes(bad.read_bytes()[:3000])
    options: dict[str, Any] = {"deployment": None, "quiet": 0, "longest": 0}
    looks = run_watch([str(corpus.raw)], corpus.settings(), Notes(), **options, every=0.01)
    first, second, third = next(looks), next(looks), next(looks)
    assert (first.new, first.started) == (4, True)
    # What is left is another thing to do than what the first run was started for: it is tried once more at once.
    assert (second.unfinished, second.started) == (1, True)
    assert (third.unfinished, third.started) == (1, False)
    assert "1 runs have not finished them" in third.said
    (once,) = run_watch([str(corpus.raw)], corpus.settings(), Notes(), **options, every=None)
    assert once.unfinished == 1


def test_a_failure_is_told_and_the_next_look_goes_on(corpus: Corpus, deployment: tuple[str, UUID]) -> None:
    notes = Notes()
    options: dict[str, Any] = {"deployment": deployment[0], "quiet": 0, "longest": 0}
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        with pytest.raises(ServerError, match="does not answer"):
            next(run_watch([str(corpus.raw)], corpus.settings(), notes, **options, every=None))
        looks = run_watch([str(corpus.raw)], corpus.settings(), Hurry(notes), **options, every=0.01)
        with pytest.raises(Hurry.Enough):
            next(looks)
    assert "this look failed, the next one goes on" in notes.notes[0]


class Hurry(Notes):
    """Has heard enough after two remarks."""

    class Enough(Exception):
        """It has."""

    def __init__(self, notes: Notes) -> None:
        super().__init__()
        self.notes = notes.notes

    def note(self, text: str) -> None:
        super().note(text)
        if len(self.notes) == 2:
            raise self.Enough


def test_wrong_requests_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no deployment 'clean/nowhere'"):
        _look(corpus, "clean/nowhere")
    with pytest.raises(MissingFileError):
        watch([str(tmp_path / "nowhere")], saved(corpus.settings()), quiet=0)
    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(UsageError, match="PREFECT_API_URL"):
        next(run_watch([], corpus.settings(), Notes(), deployment="a/b", quiet=0, longest=0, every=None))


@flow
def stand_in(sources: list[str], settings: dict[str, Any], prefix: str | None = None) -> int:
    """Begins as `clean` does."""
    return supersede()


def test_a_run_that_begins_cancels_those_that_wait_to_do_the_same(corpus: Corpus, client: SyncPrefectClient) -> None:
    target = client.create_deployment(client.create_flow(stand_in), uuid.uuid4().hex)
    same = {"sources": [str(corpus.raw)], "settings": saved(corpus.settings()), "prefix": f"{corpus.raw}/day"}

    def create(state: Any = None, **changes: Any) -> FlowRun:
        return client.create_flow_run_from_deployment(target, parameters={**same, **changes}, state=state)

    def states(runs: list[FlowRun]) -> list[StateType | None]:
        return [client.read_flow_run(run.id).state_type for run in runs]

    begins = create()
    waiting = [
        create(),
        create(prefix=f"{corpus.raw}/other/../day/"),
        create(settings={**corpus.values, "validation": [corpus.values["validation"]], "drop": "0.25"}),
    ]
    waiting.append(create(prefix=f"{corpus.raw}/day/hour"))
    others = [
        create(prefix=f"{corpus.raw}/other"),
        create(prefix=f"{corpus.raw}/days"),
        create(prefix=None),
        create(sources=[str(corpus.raw.parent)]),
        create(prefix={"hostile": 1}),
        create(state=Running()),
        create(state=Completed()),
        create(state=Scheduled(scheduled_time=datetime.now(UTC) + timedelta(hours=1))),
    ]
    before = states(others)
    assert run_flow(stand_in, flow_run=begins, parameters=begins.parameters) == 4
    assert states(waiting) == [StateType.CANCELLED] * 4
    assert states(others) == before
    assert client.read_flow_run(waiting[0].id).state_name == "Superseded"


def test_a_run_without_a_deployment_cancels_nothing(corpus: Corpus) -> None:
    assert stand_in([str(corpus.raw)], corpus.values) == 0
    assert supersede() == 0
