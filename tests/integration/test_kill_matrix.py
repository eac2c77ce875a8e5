"""A fixed part of the kill matrix (`python -m bench.kill`): SIGKILL in every stage, on a disk and on Ceph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.kill import BALLAST, WRONG, kill_often
from bench.matrix import Log, World, on_disk, on_server
from bench.places import Server
from bench.trial import Nursery
from tests.integration.conftest import Store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

STAGES = ("inventory", "fit", "score", "plan", "apply", "repack", "restore", "export")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery, model: tuple[Path, Path]) -> World:
    return on_disk(tmp_path_factory.mktemp("world"), model, nursery, BALLAST)


@pytest.mark.parametrize("stage", STAGES)
def test_killed_on_a_disk(disk: World, stage: str, tmp_path: Path) -> None:
    _kill(disk, stage, 5, tmp_path)


@pytest.mark.parametrize("stage", ["inventory", "apply", "repack"])
def test_killed_on_ceph(
    ceph: Store,
    new_bucket: Callable[[Server], str],
    nursery: Nursery,
    model: tuple[Path, Path],
    stage: str,
    tmp_path: Path,
) -> None:
    world = on_server(model, nursery, ceph.server, new_bucket(ceph.server), BALLAST)
    _kill(world, stage, 4, tmp_path)


def _kill(world: World, stage: str, kills: int, folder: Path) -> None:
    results = kill_often(world, stage, kills, 0, Log(folder / "kill.jsonl"))
    print([(result["when"], result["files"], result["unfinished"]) for result in results])
    assert [{kind: result[kind] for kind in WRONG if result[kind]} for result in results] == [{}] * kills
