"""Groups that an earlier parent has sent and somebody still works on.

A parent that is killed leaves its children working for minutes or hours. The next one finds the files of the fan-out
in the output, asks Prefect which of its runs have not ended, and waits for these instead of sending their shards
again. Where Prefect does not know, nothing is lost: outputs that are there are not made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ecif.errors import InputError, StorageError
from ecif.inventory import Shard
from flows.fanout import children
from flows.fanout.children import Child
from flows.fanout.plan import Fan, under_way
from tasks.groups import Group, Job


@dataclass(frozen=True, slots=True)
class Orphan:
    """A group that is under way, the attempt that is, and its run."""

    fan: Fan
    number: int
    group: Group
    attempt: int
    child: Child


def orphans(stage: str, job: Job, fan: Fan, shards: Sequence[Shard]) -> tuple[list[Orphan], list[Fan]]:
    """Groups of other fan-outs of the same stage, all of whose shards are among `shards`.

    Returns:
        The groups, each shard in one of them at most; and the fan-outs whose parent has ended, so that nobody else
        removes their files.

    Raises:
        Away: Prefect does not answer.
    """
    left = {shard.name: shard for shard in shards}
    found: list[Orphan] = []
    abandoned: list[Fan] = []
    for key, (other, parent) in under_way(stage, job, fan.layout, fan.storage).items():
        if key == fan.key:
            continue
        runs = children.of_fan(key)
        if parent == children.parent_id() or not children.is_running(parent):
            abandoned.append(other)
        for (number, attempt), child in sorted(runs.items(), reverse=True):
            group = _readable(other, number)
            if group is not None and all(left.get(shard.name) == shard for shard in group.shards):
                for shard in group.shards:
                    del left[shard.name]
                found.append(Orphan(other, number, group, attempt, child))
    return found, abandoned


def _readable(fan: Fan, number: int) -> Group | None:
    """The shards of a group; None when it is not wanted any more, or was written in another form."""
    try:
        work = fan.work(number)
    except StorageError:
        raise
    except InputError:
        return None
    return work[1] if work else None
