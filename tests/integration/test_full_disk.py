"""Full and read-only disks: a clear error that loses nothing, then the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.disks import DISKS, Disk, on_a_disk
from bench.matrix import World, on_disk
from bench.trial import Nursery

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery, model: tuple[Path, Path]) -> World:
    return on_disk(tmp_path_factory.mktemp("world"), model, nursery, 100_000)


@pytest.mark.parametrize("disk", DISKS, ids=[disk.name for disk in DISKS])
@pytest.mark.parametrize("stage", ["inventory", "fit", "score", "plan", "apply", "repack", "restore", "export"])
def test_the_disk_is_to_blame_and_named(world: World, stage: str, disk: Disk) -> None:
    result = on_a_disk(world, world.stages[stage], disk)
    assert result["wrong"] == [], result
