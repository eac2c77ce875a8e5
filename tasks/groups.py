"""Groups of shards, the unit of orchestration, and the keys under which their results are cached.

A task run costs tens of milliseconds and a row in Prefect's database whatever it does, so a task takes a group of
shards: enough for minutes of work. A key holds everything that the result depends on and nothing of the run, so that
a run that was killed finds its results again: `{stage}/v{ALGO_VERSION}/{config hash}/{group}-{hash of etags}`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ecif import ALGO_VERSION, detectors
from ecif.errors import InputError
from ecif.inventory import Inventory, Shard
from ecif.layout import Layout
from ecif.policy.settings import PolicySettings
from ecif.run import Run
from ecif.settings import saved
from ecif.sources import Found
from tasks import ambient


@dataclass(frozen=True, slots=True)
class Job:
    """What all groups of a run share: settings without secrets, and the keys of what they make.

    Attributes:
        settings: `ecif.settings.saved(settings)`.
        validation: the tars of trusted pairs.
        decision_key: empty until a decision is made.
    """

    settings: dict[str, Any]
    validation: tuple[Found, ...]
    fit_key: str
    score_key: str
    decision_key: str = ""

    @classmethod
    def of(cls, run: Run) -> Job:
        """The job of a run that has no decision yet."""
        settings = saved(run.settings)
        if settings.get("detector") in set(detectors.OPTIONAL) - set(settings["columns"]):
            # A fit beside the run's own computes none of its columns, and what decides later is nothing to it.
            settings["detector"] = PolicySettings.model_fields["detector"].default
        return cls(settings, run.validation, run.fit_key, run.score_key)

    def config_hash(self) -> str:
        """Identity of the output and of what is computed into it; 12 hex digits."""
        parts = [self.settings["out"].rstrip("/"), self.fit_key, self.score_key, self.decision_key]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    def run(self, shards: Sequence[Shard]) -> Run:
        """The run as a worker sees it: with its own group of shards as the inventory."""
        settings = ambient.current().settings(self.settings)
        storage = settings.storage()
        return Run(
            settings=settings,
            layout=Layout(storage.check(settings.out)),
            storage=storage,
            inventory=Inventory(tuple(shards), ()),
            validation=self.validation,
            fit_key=self.fit_key,
            score_key=self.score_key,
        )


@dataclass(frozen=True, slots=True)
class Group:
    """A few shards that one task works through."""

    name: str
    shards: tuple[Shard, ...]

    def etag_hash(self) -> str:
        """Identity of the input bytes; 16 hex digits."""
        lines = "".join(f"{shard.name}\t{shard.url}\t{shard.size}\t{shard.etag}\n" for shard in self.shards)
        return hashlib.sha256(lines.encode()).hexdigest()[:16]


def split(shards: Sequence[Shard], size: Callable[[int], int]) -> Iterator[Group]:
    """Groups of shards in their order, named after the first shard and their number.

    Args:
        size: takes how many shards are left and says how many of them the next group holds, at least 1. It is asked
            when the group is wanted, so that it may depend on what the groups before took.
    """
    start = 0
    while start < len(shards):
        part = tuple(shards[start : start + size(len(shards) - start)])
        start += len(part)
        # The name becomes a file name of Prefect's result storage; the etag hash tells equal names apart.
        yield Group(f"{re.sub(r'[^A-Za-z0-9_.-]', '_', part[0].name)[:80]}+{len(part)}", part)


def cache_key(stage: str, job: Job, group: Group) -> str:
    """Key of a group's result."""
    return f"{stage}/v{ALGO_VERSION}/{job.config_hash()}/{group.name}-{group.etag_hash()}"


def pack_work(job: Job, group: Group) -> dict[str, Any]:
    """A group as JSON, for another machine to work on."""
    return {"job": asdict(job), "group": asdict(group)}


@dataclass(frozen=True, slots=True)
class _Work:
    job: Job
    group: Group


_WORK = TypeAdapter(_Work)


def unpack_work(record: object, url: str) -> tuple[Job, Group]:
    """What `pack_work` gave.

    Args:
        url: where it was read, for the message.

    Raises:
        InputError: it is something else.
    """
    try:
        work = _WORK.validate_python(record)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"is not a group of shards: {place}: {first['msg']}", url=url) from error
    return work.job, work.group
