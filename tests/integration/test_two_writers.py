"""Two processes on one output at the same moment: on a disk, on Ceph, and on Swift, which cannot create exclusively.

The same work twice: both end well, in the same bytes. Different plans: at most one goes through, and the output
proves clean. Different arrivals: the inventory keeps both. A barrier lets both begin together; rounds make up for
the luck that a race needs.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from bench.matrix import World, on_disk, on_server, stable
from bench.places import Server, differing
from bench.trial import Ended, Nursery
from bench.world import SHARDS, shard

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

# Races are won or lost within milliseconds; Swift takes its time, so that few rounds have many.
ROUNDS = {"disk": 20, "ceph": 6, "swift": 5}
BALLAST = 500_000


class Together:
    """Waits until the other is there."""

    def __init__(self, barrier: Any) -> None:
        self._barrier = barrier

    def __enter__(self) -> None:
        self._barrier.wait(60)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        pass


@pytest.fixture(params=["disk", "ceph", "swift"])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world(
    place: str,
    request: pytest.FixtureRequest,
    nursery: Nursery,
    model: tuple[Path, Path],
    tmp_path: Path,
    new_bucket: Callable[[Server], str],
) -> World:
    if place == "disk":
        return on_disk(tmp_path, model, nursery, BALLAST)
    server = request.getfixturevalue(place).server
    return on_server(model, nursery, server, new_bucket(server), BALLAST)


def at_once(world: World, *commands: Sequence[str]) -> list[Ended]:
    """Run commands together."""
    barrier = multiprocessing.get_context("forkserver").Barrier(len(commands))
    running = [world.nursery.start(arguments, world.environment, Together(barrier)) for arguments in commands]
    return [one.wait(300) for one in running]


def run(world: World, *arguments: str) -> Any:
    """A command that succeeds; what it answered."""
    ended = world.nursery.run(arguments, world.environment)
    assert ended.code == 0, ended.err + ended.out
    return json.loads(ended.out) if "--json" in arguments else None


def test_the_same_work_twice(world: World, place: str) -> None:
    for name in ("inventory", "fit", "score", "plan", "apply", "repack"):
        stage, expected = world.stages[name], world.undisturbed(world.stages[name])
        for _ in range(ROUNDS[place] if name in ("inventory", "plan", "apply") else 3):
            world.out.reset(world.before(stage))
            for ended in at_once(world, stage.arguments, stage.arguments):
                assert ended.code == 0, f"{name}: {ended.err}{ended.out}"
            assert differing(stable(world.out.read()), expected) == [], name
            assert world.out.leftovers() == 0


def test_two_plans(world: World, place: str) -> None:
    before = dict(world.undisturbed(world.stages["score"]))
    world.out.reset(before)
    keys = [run(world, "plan", world.out.url, "--drop", drop, "--json")["key"] for drop in ("0.25", "0.5")]
    before = world.out.read()
    outcomes = []
    for _ in range(ROUNDS[place]):
        world.out.reset(before)
        both = at_once(world, *(("apply", world.out.url, "--decision", key, "--json") for key in keys))
        codes = [ended.code for ended in both]
        outcomes.append(tuple(codes))
        assert codes.count(0) <= 1, codes
        for ended in both:
            assert ended.code in (0, 2), ended.err + ended.out
            if ended.code:
                assert "decision" in ended.err, ended.err
                assert "Traceback" not in ended.err
        if 0 not in codes:  # both saw the other and withdrew: the next one finds the way free
            run(world, "apply", world.out.url, "--decision", keys[0], "--json")
        verified = run(world, "verify", world.out.url, "--json")
        assert verified["ok"]
        assert verified["shards"] == SHARDS
        loser = keys[1] if codes[0] == 0 or 0 not in codes else keys[0]
        late = world.nursery.run(("apply", world.out.url, "--decision", loser, "--json"), world.environment)
        assert late.code == 2
        assert "decision" in late.err
    print(f"{place}: {outcomes}")


def test_two_forms_of_one_plan(world: World, place: str) -> None:
    before = world.undisturbed(world.stages["plan"])
    commands = [world.stages[name].arguments for name in ("apply", "repack")]
    for _ in range(max(3, ROUNDS[place] // 3)):
        world.out.reset(before)
        both = at_once(world, *commands)
        assert [ended.code for ended in both].count(0) <= 1
        assert {ended.code for ended in both} <= {0, 2}, [ended.err for ended in both]
        if all(ended.code for ended in both):
            run(world, *commands[0])
        assert run(world, "verify", world.out.url, "--json")["ok"]


def test_two_arrivals(world: World, place: str) -> None:
    before = world.undisturbed(world.stages["inventory"])
    stage = world.stages["inventory"]
    arrived = {f"raw/{number:05d}.tar": shard(number)[0] for number in (SHARDS, SHARDS + 1)}
    world.source.reset({**world.files, **arrived})
    sources = json.loads(stage.arguments[1])
    commands = [
        ("inventory", json.dumps([*sources, f"{world.source.url}/{name}"]), stage.arguments[2]) for name in arrived
    ]
    for _ in range(ROUNDS[place]):
        world.out.reset(before)
        for ended in at_once(world, *commands):
            assert ended.code == 0, ended.err
        listed: list[str] = []
        for name, data in world.out.read().items():
            assert name.startswith("_ecif/inventory/")
            listed += [item["name"] for item in json.loads(data)["shards"]]
        assert set(listed) == {f"{number:05d}" for number in range(SHARDS + 2)}
        run(world, *commands[0])
