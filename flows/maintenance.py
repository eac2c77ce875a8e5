"""The nightly broom: what runs leave behind, and nothing that a result depends on.

    automations   those that ECIF ships are created, or set right again (`flows.automations`)
    history       old runs with the tag `ecif` are deleted from Prefect's database, with what belongs to them
    fans          files of fan-outs whose parent was killed, `_ecif/fan/KEY`, once nothing has changed there for days
    uploads       multipart uploads that nobody has finished for days, which cost money and which nothing shows

The truth about a corpus is in its output, so the history may go at any age. The parts do not wait for each other: what
fails is told at the end, and the rest is done.

The history is deleted through Prefect's API, run by run, so that a server is kept small by whoever may use it, and
others' runs on it are left alone. Who owns the server can let it delete by age instead, which is faster and concerns
all runs: PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED=true. Events are deleted by the server in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import TERMINAL_STATES
from prefect.exceptions import ObjectNotFound
from pydantic import Field

from ecif.errors import EcifError, InputError
from ecif.layout import Layout
from ecif.settings import StorageSettings
from ecif.storage import Storage
from ecif.storage.secrets import redact
from flows import automations
from flows.fanout.children import is_running
from flows.fanout.plan import Fan
from flows.parameters import Out

# Runs whose artifacts are looked for at once, and artifacts that the API lists at once.
RUNS_AT_ONCE = 50
ARTIFACTS_AT_ONCE = 200

Days = Annotated[float, Field(gt=0)]


@dataclass(slots=True)
class Swept:
    """What a run of the flow did.

    Attributes:
        automations: what was done, by name.
        runs, artifacts: deleted from Prefect's database.
        fans: fan-outs whose files were removed. uploads: those aborted.
        problems: what could not be done, and why.
    """

    automations: dict[str, automations.Change] = field(default_factory=dict)
    runs: int = 0
    artifacts: int = 0
    fans: int = 0
    uploads: int = 0
    problems: list[str] = field(default_factory=list)

    def headline(self) -> str:
        """All of it, in a sentence."""
        changed = sum(change != "unchanged" for change in self.automations.values())
        return (
            f"{changed} automations changed; deleted {self.runs:,} runs and {self.artifacts:,} artifacts of Prefect's, "
            f"{self.fans:,} fan-outs and {self.uploads:,} unfinished uploads of the outputs"
        )


@flow(name="maintenance", description="Remove what old runs left behind, and keep the server's automations in order.")
def maintenance(
    outs: list[Out], history_days: Days = 30.0, fan_days: Days = 7.0, upload_days: Days = 7.0, notify: str | None = None
) -> dict[str, Any]:
    """Sweep Prefect's database and the outputs.

    Args:
        outs: outputs to sweep: directories or object-storage prefixes.
        history_days: days after its end for which a run stays in Prefect's database.
        fan_days: days without a change after which the files of a fan-out are removed.
        upload_days: days after which an upload that was begun counts as abandoned.
        notify: TYPE/NAME of the server's notification block that hears of failures, such as slack-webhook/ecif; without
            one, failures show as events.

    Returns:
        the fields of `Swept`.

    Raises:
        EcifError: something could not be done; the rest was.
    """
    now = datetime.now(UTC)
    swept = Swept()
    log = get_run_logger()

    def part(name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # each part for itself: a storage that is down must not keep the others waiting
            swept.problems.append(f"{name}: {redact(str(error))}")
            log.error(swept.problems[-1])

    with get_client(sync_client=True) as client:
        part("automations", partial(_automations, client, notify, swept))
        part("history", partial(_history, client, now - timedelta(days=history_days), swept))
    storage = StorageSettings().storage()
    for out in outs:
        part(f"fans of {out}", partial(_fans, out, storage, now - timedelta(days=fan_days), swept))
        part(f"uploads of {out}", partial(_uploads, out, storage, now - timedelta(days=upload_days), swept))
    log.info(swept.headline())
    if swept.problems:
        raise EcifError("; ".join(swept.problems))
    return asdict(swept)


def _automations(client: SyncPrefectClient, notify: str | None, swept: Swept) -> None:
    block = automations.notification_block(client, notify) if notify else None
    swept.automations = automations.apply(client, automations.shipped(block))


def _history(client: SyncPrefectClient, before: datetime, swept: Swept) -> None:
    """Delete the runs that ended before a time, the artifacts of each batch first.

    The server deletes task runs, states and logs with a run, but no artifacts.
    """
    old = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[automations.TAG]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=sorted(TERMINAL_STATES))),
        end_time=FlowRunFilterEndTime(before_=before),
    )
    while runs := client.read_flow_runs(flow_run_filter=old, limit=RUNS_AT_ONCE):
        for artifact in _artifacts(client, [str(run.id) for run in runs]):
            client.request("DELETE", "/artifacts/{id}", path_params={"id": artifact})
            swept.artifacts += 1
        for run in runs:
            with suppress(ObjectNotFound):  # another sweep has taken it
                client.delete_flow_run(run.id)
                swept.runs += 1


def _artifacts(client: SyncPrefectClient, runs: list[str]) -> Iterator[UUID]:
    body = {"artifacts": {"flow_run_id": {"any_": runs}}, "limit": ARTIFACTS_AT_ONCE}
    while found := client.request("POST", "/artifacts/filter", json=body).json():
        yield from (UUID(artifact["id"]) for artifact in found)


def _fans(out: str, storage: Storage, before: datetime, swept: Swept) -> None:
    """Remove the files of fan-outs in which nothing was written since a time, and whose parent has ended.

    A fan-out that is under way writes all the time, and its parent removes the files at its end.
    """
    layout = Layout(storage.check(Layout(out).root, write=True))
    folder = storage.check(layout.fans()) + "/"
    files: dict[str, list[str]] = {}
    for file in storage.scan(layout.fans(), ".json"):
        files.setdefault(file.url.removeprefix(folder).partition("/")[0], []).append(file.url)
    for key, urls in files.items():
        if any(storage.modified(url) >= before for url in urls):
            continue
        try:
            fan = Fan(key, layout, storage)
        except InputError:  # somebody else's
            continue
        if not _has_parent(fan):
            fan.end()
            swept.fans += 1


def _has_parent(fan: Fan) -> bool:
    """Whether the run that hands out is still there."""
    plan = fan.layout.fan_plan(fan.key)
    if not fan.storage.exists(plan):
        return False
    return is_running(str(fan.storage.read_json(plan).get("parent", "")))


def _uploads(out: str, storage: Storage, before: datetime, swept: Swept) -> None:
    for upload in storage.uploads(storage.check(Layout(out).root, write=True)):
        if upload.started < before:
            storage.abort_upload(upload)
            swept.uploads += 1
