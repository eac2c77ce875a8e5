"""The files through which a parent and the runs of its groups speak: the work, and what became of it.

    _ecif/fan/KEY/plan.json                which stage of which parent; there while the stage is under way
    _ecif/fan/KEY/000003.json              a group: written before its run is created, removed when it is through
    _ecif/fan/KEY/000003.1.result.json     what the first run of the group came to: the last thing it writes

What lies there is what is under way. A run that finds its group gone is not wanted any more, whatever Prefect says:
it was given up, cancelled, or done by somebody else. A parent that was killed leaves the files, and the next one
finds the groups that are still being worked on. Outputs say what is done; these files only say who does what.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ecif.agreement import canonical
from ecif.ahead import ahead
from ecif.errors import InputError, MissingFileError
from ecif.layout import Layout
from ecif.storage import Storage
from tasks.groups import Group, Job, pack_work, unpack_work
from tasks.stages import Result

_KEY = re.compile(r"[a-z]+-[0-9a-f]{12}-[0-9a-f]{12}")
_RESULT = re.compile(r"(\d{6,})\.(\d+)\.result\.json")
_GROUP = re.compile(r"(\d{6,})\.json")


class Report(TypedDict):
    """What a run of a group writes last.

    Attributes:
        result: as the group's task returned it; None when the request was refused.
        refused: the message of an error that hit all shards alike, and whether it is the request that is wrong.
    """

    result: Result | None
    refused: tuple[str, bool] | None


_REPORT = TypeAdapter(Report)


@dataclass(frozen=True, slots=True)
class Fan:
    """The files of one fan-out.

    Attributes:
        key: `{stage}-{config hash}-{random}`. A new one for every fan-out, because Prefect answers a repeated
            idempotency key with the run that had it first, also when that one has long ended.
    """

    key: str
    layout: Layout
    storage: Storage

    def __post_init__(self) -> None:
        # It comes in as a parameter of runs, and becomes a part of URLs.
        if not _KEY.fullmatch(self.key):
            raise InputError(f"{self.key!r} is not the key of a fan-out", url=self.layout.fans())

    @classmethod
    def new(cls, stage: str, job: Job, layout: Layout, storage: Storage, parent: str) -> Fan:
        """Begin one.

        Args:
            parent: the flow run that hands out.
        """
        fan = cls(f"{_prefix(stage, job)}{secrets.token_hex(6)}", layout, storage)
        storage.publish_json(layout.fan_plan(fan.key), {"stage": stage, "parent": parent})
        return fan

    def hand_out(self, number: int, job: Job, group: Group) -> None:
        """Write a group, for its run to read; what is there already stays."""
        self.storage.publish_first(self.layout.fan_group(self.key, number), canonical(pack_work(job, group)))

    def work(self, number: int) -> tuple[Job, Group] | None:
        """A group as it was handed out; None when it is not wanted any more.

        Raises:
            InputError: the file is not a group. UsageError: it lies where this process may not read.
        """
        url = self.layout.fan_group(self.key, number)
        try:
            return unpack_work(self.storage.read_json(url), url)
        except MissingFileError:
            return None

    def wanted(self, number: int) -> bool:
        """Whether the group is still to be worked on."""
        return self.storage.exists(self.layout.fan_group(self.key, number))

    def report(self, number: int, attempt: int, report: Report) -> None:
        """Write what became of a group."""
        self.storage.publish_json(self.layout.fan_result(self.key, number, attempt), report, replace=True)

    def reports(self) -> dict[int, list[int]]:
        """Attempts that have reported, by group: one listing."""
        found: dict[int, list[int]] = {}
        for name in self._names():
            if match := _RESULT.fullmatch(name):
                found.setdefault(int(match[1]), []).append(int(match[2]))
        return found

    def read(self, number: int, attempt: int) -> Report | None:
        """A report; None when it is gone, because another parent has read it.

        Raises:
            InputError: the file holds something else.
        """
        url = self.layout.fan_result(self.key, number, attempt)
        try:
            return _REPORT.validate_python(self.storage.read_json(url))
        except MissingFileError:
            return None
        except ValidationError as error:
            raise InputError(f"is not the report of a group: {error.errors()[0]['msg']}", url=url) from error

    def groups(self) -> list[int]:
        """Numbers of the groups that are under way."""
        return sorted(int(match[1]) for name in self._names() if (match := _GROUP.fullmatch(name)))

    def withdraw(self, number: int, attempts: int) -> None:
        """Remove a group that is through, and what its runs have reported."""
        self.storage.delete(self.layout.fan_group(self.key, number))
        for attempt in range(1, attempts + 1):
            self.storage.delete(self.layout.fan_result(self.key, number, attempt))

    def end(self) -> None:
        """Remove everything: runs that have not begun will do nothing, the others stop after their shard."""
        folder = self._folder()
        # The plan last, so that what could not be removed is found by the next parent.
        urls = [folder + name for name in self._names() if name != "plan.json"]
        for _ in ahead(self.storage.delete, urls):
            pass
        self.storage.delete(self.layout.fan_plan(self.key))

    def _names(self) -> Iterator[str]:
        folder = self._folder()
        return (file.url.removeprefix(folder) for file in self.storage.scan(folder, ".json"))

    def _folder(self) -> str:
        return self.storage.check(f"{self.layout.fans()}/{self.key}") + "/"


def under_way(stage: str, job: Job, layout: Layout, storage: Storage) -> dict[str, tuple[Fan, str]]:
    """Fan-outs of the same stage of the same work that have not ended, and their parents, by key."""
    folder = storage.check(layout.fans()) + "/"
    found = {}
    for file in storage.scan(folder, "/plan.json"):
        key = file.url.removeprefix(folder).removesuffix("/plan.json")
        if key.startswith(_prefix(stage, job)) and _KEY.fullmatch(key):
            try:
                plan: Any = storage.read_json(file.url)
            except MissingFileError:
                continue
            found[key] = Fan(key, layout, storage), str(plan.get("parent", ""))
    return found


def _prefix(stage: str, job: Job) -> str:
    return f"{stage}-{job.config_hash()}-"
