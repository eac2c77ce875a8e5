"""Groups as flow runs of deployments, in work pools: the parent hands out, looks, and believes outputs.

A bounded number of groups is under way, because a queue with hundreds of waiting runs congests. A group is through
when a run of it has left a report, or all its shards have outputs. It is sent again, as another attempt, when its run
has ended without a report (killed, crashed, gone with the database), or claims to run and gives no sign of life for
`--group-timeout` seconds; waiting in a queue is no such silence. After `--group-attempts` its shards without an output
count as failed. A report of an attempt that was given up is as good as any.

Prefect is asked in order to notice early. While it does not answer, reports and outputs are still looked for, and
nothing is sent; the same holds for a storage that fails for some minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from ecif.errors import StorageError, UsageError
from ecif.inventory import Shard
from ecif.progress import clock
from ecif.settings import OrchestrationSettings
from flows.fanout import children
from flows.fanout.adoption import orphans
from flows.fanout.children import Away, Child
from flows.fanout.outputs import Outputs
from flows.fanout.patience import Patience
from flows.fanout.plan import Fan, Report
from flows.fanout.sizing import Sizes
from tasks import ambient
from tasks.groups import Group, Job, split
from tasks.stages import Aside, Result

# Seconds between two looks: few when something has just happened, more in a stage of days.
SHORTEST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
# Seconds after which it is told that no worker takes the groups, and again as often.
NOTED_AFTER = 300.0


@dataclass(slots=True, eq=False)
class Flight:
    """A group that is under way.

    Attributes:
        child: its run as Prefect showed it last; None before it is created.
        alive: when it gave a sign of life last, by the monotonic clock.
        through: how many of its shards have outputs.
        last: why the attempt before ended.
    """

    fan: Fan
    number: int
    group: Group
    attempt: int = 1
    child: Child | None = None
    alive: float = 0.0
    through: int = 0
    last: str = ""


def deployment_of(stage: str) -> str:
    """The deployment that works on the groups of a stage, as "flow/deployment"."""
    return f"{stage}-group/{stage}-group"


def send(
    stage: str,
    job: Job,
    shards: Sequence[Shard],
    *,
    options: OrchestrationSettings,
    sizes: Sizes,
    outputs: Outputs,
    landed: Callable[[Group, Result], None],
) -> None:
    """Take all shards through a stage by runs of its deployment.

    Raises:
        UsageError: there is no server, or no such deployment; or all attempts of a group said that the request is
            wrong. Runs that are under way then end after their shard.
    """
    run = job.run(())
    fan = Fan.new(stage, job, run.layout, run.storage, children.parent_id())
    fleet = Fleet(stage, job, fan, options, sizes, outputs, landed)
    try:
        fleet.adopt(shards)
        fleet.run(shards)
    finally:
        fleet.end()


class Fleet:
    """The groups of one stage that are under way. See `send` for the arguments."""

    def __init__(
        self,
        stage: str,
        job: Job,
        fan: Fan,
        options: OrchestrationSettings,
        sizes: Sizes,
        outputs: Outputs,
        landed: Callable[[Group, Result], None],
    ) -> None:
        self._stage, self._job, self._fan = stage, job, fan
        self._options, self._sizes, self._outputs, self._landed = options, sizes, outputs, landed
        self._flying: list[Flight] = []
        self._fans = [fan]
        self._patience = Patience(
            options.group_timeout,
            f"--fan-out deployment needs a Prefect server with the deployment {deployment_of(stage)}: set "
            "PREFECT_API_URL and run `prefect deploy --all`",
        )
        self._event = self._noted = time.monotonic()

    def adopt(self, shards: Sequence[Shard]) -> None:
        """Wait for groups that an earlier parent sent and somebody still works on, instead of sending their shards."""
        try:
            found, abandoned = orphans(self._stage, self._job, self._fan, shards)
        except Away as error:
            self._patience.silent(str(error))
            return
        self._fans += abandoned
        now = time.monotonic()
        self._flying += [Flight(one.fan, one.number, one.group, one.attempt, one.child, now) for one in found]
        if found:
            ambient.current().progress.note(f"{len(found):,} groups of an earlier run are under way: waited for")

    def run(self, shards: Sequence[Shard]) -> None:
        """Send all shards that are not under way, until nothing is."""
        taken = {shard.name for flight in self._flying for shard in flight.group.shards}
        groups = enumerate(split([shard for shard in shards if shard.name not in taken], self._sizes))
        while True:
            self._send(groups)
            if not self._flying:
                return
            self._look()
            quiet = time.monotonic() - self._event
            time.sleep(min(LONGEST_PAUSE, max(SHORTEST_PAUSE, quiet / 20)))

    def end(self) -> None:
        """Remove the files, which reaches every child that storage reaches, and cancel what has not ended."""
        try:
            for fan in self._fans:
                fan.end()
        except StorageError as error:
            ambient.current().progress.note(f"files of the fan-out stay behind, and do no harm: {error}")
        children.cancel([flight.child.id for flight in self._flying if flight.child])

    def _send(self, groups: Iterator[tuple[int, Group]]) -> None:
        while len(self._flying) < self._options.max_groups:
            number, group = next(groups, (0, None))
            if group is None:
                break
            self._flying.append(Flight(self._fan, number, group, alive=time.monotonic()))
        for flight in self._flying:
            if flight.child is not None:
                continue
            parameters = {
                "out": self._fan.layout.root,
                "fan_key": flight.fan.key,
                "number": flight.number,
                "attempt": flight.attempt,
            }
            try:
                flight.fan.hand_out(flight.number, self._job, flight.group)
                flight.child = children.submit(
                    deployment_of(self._stage), parameters, flight.fan.key, f"{self._stage} {flight.group.name}"
                )
            except StorageError as error:
                if not self._patience.met:
                    raise
                self._patience.silent(str(error))
                return
            except Away as error:
                self._patience.silent(str(error))
                return
            self._patience.met = True
            flight.alive = self._event = time.monotonic()

    def _look(self) -> None:
        # In this order: a run reports before it ends, so who has ended without a report says nothing any more.
        try:
            states = children.look([flight.child.id for flight in self._flying if flight.child])
        except Away as error:
            self._patience.silent(str(error))
            states = None
        try:
            self._believe(states)
        except StorageError as error:
            self._patience.silent(str(error))
            return
        if states is not None and all(flight.child for flight in self._flying):
            self._patience.answered()

    def _believe(self, states: dict[UUID, Child] | None) -> None:
        reports = {fan.key: fan.reports() for fan in {flight.fan.key: flight.fan for flight in self._flying}.values()}
        doubtful: dict[Flight, str] = {}
        for flight in [*self._flying]:
            attempts = reports[flight.fan.key].get(flight.number, [])
            refused = ""
            for attempt in attempts:
                report = flight.fan.read(flight.number, attempt)
                if report is None:
                    continue
                if report["result"] is not None:
                    if attempt != flight.attempt:
                        self._cancel(flight)
                    self._through(flight, report["result"])
                    break
                if attempt == flight.attempt:
                    refused = self._refused(flight, report)
            else:
                if why := refused or self._ended(flight, states):
                    doubtful[flight] = why
        present = self._outputs.look(fresh=bool(doubtful) or any(map(self._silent, self._flying)))
        for flight in [*self._flying]:
            through = sum(shard.name in present for shard in flight.group.shards)
            if through > flight.through:
                flight.alive = self._event = time.monotonic()
                flight.through = through
            why = doubtful.get(flight, "")
            if not why and self._silent(flight):
                why = f"no sign of life for {clock(self._options.group_timeout)}"
            if why:
                self._again(flight, why, present)
        self._tell_of_queue()

    def _ended(self, flight: Flight, states: dict[UUID, Child] | None) -> str:
        """Why nobody works on the group any more; empty when somebody does, or nobody knows."""
        if states is None or flight.child is None:
            return ""
        child = states.get(flight.child.id)
        if child is None:
            return "Prefect knows nothing of its run any more"
        if child.waiting or child.state != flight.child.state:
            flight.alive = time.monotonic()
        flight.child = child
        name = child.state.partition(" ")[0]
        return f"its run ended without a report ({name}{': ' if child.message else ''}{child.message})" * child.ended

    def _silent(self, flight: Flight) -> bool:
        waiting = flight.child is None or flight.child.waiting
        return not waiting and time.monotonic() - flight.alive > self._options.group_timeout

    def _refused(self, flight: Flight, report: Report) -> str:
        assert report["refused"] is not None
        message, fatal = report["refused"]
        if fatal and flight.attempt >= self._options.group_attempts:
            raise UsageError(
                f"{message} (so said {flight.attempt} runs of the deployment {deployment_of(self._stage)})"
            )
        return message

    def _again(self, flight: Flight, why: str, present: AbstractSet[str]) -> None:
        self._cancel(flight)
        missing = [shard for shard in flight.group.shards if shard.name not in present]
        if not missing:
            self._through(flight, {"done": [], "failed": [], "seconds": 0.0})
            return
        said = f"group {flight.group.name}, attempt {flight.attempt} of {self._options.group_attempts}: {why}"
        ambient.current().progress.note(said)
        if flight.attempt < self._options.group_attempts:
            flight.attempt += 1
            flight.child, flight.alive = None, time.monotonic()
            return
        reason = f"its group was sent {flight.attempt} times and did not get through it, the last time: {why}"
        failed: list[Aside] = [{"shard": shard.name, "reason": reason, "passing": True} for shard in missing]
        self._through(flight, {"done": [], "failed": failed, "seconds": 0.0})

    def _through(self, flight: Flight, result: Result) -> None:
        self._flying.remove(flight)
        self._event = time.monotonic()
        if flight.attempt == 1 and result["done"]:  # later attempts find a part of their shards done
            self._sizes.measured(len(result["done"]) + len(result["failed"]), result["seconds"])
        self._landed(flight.group, result)
        with suppress(StorageError):  # at the end it is tried again
            flight.fan.withdraw(flight.number, flight.attempt)

    def _cancel(self, flight: Flight) -> None:
        if flight.child is not None and not flight.child.ended:
            children.cancel([flight.child.id])

    def _tell_of_queue(self) -> None:
        now = time.monotonic()
        waiting = [flight for flight in self._flying if flight.child is not None and flight.child.waiting]
        if len(waiting) < len(self._flying):
            self._noted = now
        elif now - self._noted > NOTED_AFTER:
            self._noted = now
            pool = f"the work pool of {deployment_of(self._stage)}"
            ambient.current().progress.note(f"{len(waiting):,} groups wait for a worker: does one run for {pool}?")
