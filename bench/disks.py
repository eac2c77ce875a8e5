"""Full and read-only disks as faults of a stage with a local output."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.matrix import World, stable
from bench.mounts import PAGE, ReadOnly, Small
from bench.outcomes import ERROR, SAME, judge
from bench.places import Files, Folder
from bench.trial import Around
from bench.world import Stage


@dataclass(frozen=True, slots=True)
class Disk:
    """One kind of bad disk.

    Attributes:
        around: makes it, for the folder, the files before and after the stage, and a folder to keep things in.
        temporary: it is that of TMPDIR, not that of the output.
    """

    name: str
    around: Callable[[str, Files, Files, str], Around]
    allowed: tuple[str, ...] = (ERROR,)
    temporary: bool = False


def pages(files: Files) -> int:
    """What files take on a tmpfs, in pages."""
    return sum(-(-len(data) // PAGE) for data in files.values())


def small(share: float) -> Callable[[str, Files, Files, str], Around]:
    """Room for what is there, and for a share of what is to come."""

    def around(folder: str, before: Files, after: Files, keep: str) -> Around:
        size = pages(before) + int(share * (pages(after) - pages(before)))
        return Small(folder, size * PAGE, keep)

    return around


DISKS = (
    Disk("output full from the beginning", small(0.0)),
    Disk("output full after a third", small(1 / 3)),
    Disk("output full after two thirds", small(2 / 3)),
    Disk("output read-only", lambda folder, before, after, keep: ReadOnly(folder)),
    Disk("TMPDIR full", lambda folder, before, after, keep: Small(folder, PAGE, keep), (SAME, ERROR), temporary=True),
)


def on_a_disk(world: World, stage: Stage, disk: Disk) -> dict[str, Any]:
    """One run on a bad disk, and one on a good one after it; see `judge`."""
    start, expected = world.before(stage), world.undisturbed(stage)
    world.out.reset(start)
    with tempfile.TemporaryDirectory() as folder:
        keep = Path(folder) / "kept"
        temporary = Path(folder) / "tmp"
        keep.mkdir()
        temporary.mkdir()
        where = str(temporary) if disk.temporary else world.out.url
        around = disk.around(where, start, expected, str(keep))
        ended = world.nursery.run(stage.arguments, {**world.environment, "TMPDIR": str(temporary)}, around)
        if not disk.temporary and isinstance(around, Small):
            found = Folder(keep / "after")
            left = found.leftovers()
            world.out.reset(found.read())
        else:
            left = world.out.leftovers()
    visible = stable(world.out.read())
    again = world.nursery.run(stage.arguments, world.environment)
    final = stable(world.out.read())
    judged = judge(world, stage, disk.allowed, (ended, again), (visible, final, expected), 1, left)
    return judged | {"wrong": judged["wrong"] + ([f"{left} temporary files left"] if left else [])}
