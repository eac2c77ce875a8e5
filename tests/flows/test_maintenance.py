"""What the nightly broom takes and what it leaves, on a real Prefect server and on real files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, tags, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags, LogFilter, LogFilterFlowRunId
from prefect.runtime import flow_run
from prefect.states import Running

from ecif.errors import EcifError
from ecif.layout import Layout
from ecif.storage import Storage
from flows import automations
from flows.fanout.plan import Fan
from flows.maintenance import maintenance
from tests.conftest import Bucket

A_DAY = 86_400.0
NOW = 1e-9  # days: whatever has ended is older
KEY = "score-0123456789ab-0123456789ab"


@task
def _work() -> None:
    create_markdown_artifact("of a task", key="ecif-test")


@flow(log_prints=True)
def _worked(mark: str) -> str:
    print(mark)
    create_markdown_artifact("of a flow", key="ecif-test")
    _work()
    return str(flow_run.id)


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as found:
        yield found


def _artifacts(client: SyncPrefectClient, run: UUID) -> list[dict[str, Any]]:
    body = {"artifacts": {"flow_run_id": {"any_": [str(run)]}}}
    found: list[dict[str, Any]] = client.request("POST", "/artifacts/filter", json=body).json()
    return found


def _logs(client: SyncPrefectClient, run: UUID) -> int:
    return len(client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]))))


def _soon(wanted: Any) -> None:
    """The server writes down logs, and deletes them, in the background."""
    deadline = time.monotonic() + 60
    while not wanted():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _exists(client: SyncPrefectClient, run: UUID) -> bool:
    body = {"flow_runs": {"id": {"any_": [str(run)]}}}
    return bool(client.request("POST", "/flow_runs/filter", json=body).json())


def test_old_runs_go_with_all_that_belongs_to_them(client: SyncPrefectClient) -> None:
    with tags(automations.TAG):
        old = UUID(_worked("old"))
    foreign = UUID(_worked("somebody else's"))
    with tags(automations.TAG):
        alive = client.create_flow_run(_worked, parameters={"mark": "alive"}, state=Running()).id
    _soon(lambda: _logs(client, old))
    assert len(_artifacts(client, old)) == 2

    kept = maintenance([], history_days=1.0)
    assert kept["runs"] == 0
    swept = maintenance([], history_days=NOW)
    assert swept["runs"] >= 1
    assert swept["artifacts"] >= 2
    assert not _exists(client, old)
    assert _artifacts(client, old) == []
    _soon(lambda: not _logs(client, old))
    assert _exists(client, alive)
    assert _exists(client, foreign)
    assert len(_artifacts(client, foreign)) == 2
    client.delete_flow_run(alive)


def test_more_runs_than_a_page_holds(client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.maintenance.RUNS_AT_ONCE", 2)
    monkeypatch.setattr("flows.maintenance.ARTIFACTS_AT_ONCE", 1)
    with tags(automations.TAG, "many"):
        for _ in range(3):
            _worked("many")
    assert maintenance([], history_days=NOW)["runs"] >= 3
    left = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=["many"])))
    assert left == []


def test_the_automations_are_there_afterwards(client: SyncPrefectClient) -> None:
    for found in client.read_automations():
        client.delete_automation(found.id)
    assert set(maintenance([])["automations"].values()) == {"created"}
    assert set(maintenance([])["automations"].values()) == {"unchanged"}


def _fan(out: Path, key: str, parent: str, age: float) -> Path:
    """The files of a fan-out whose newest file is so old."""
    layout = Layout(str(out))
    Storage().publish_json(layout.fan_plan(key), {"stage": "score", "parent": parent})
    Storage().publish_json(layout.fan_group(key, 0), {"anything": 1})
    folder = out / "_ecif" / "fan" / key
    newest = time.time() - age
    os.utime(folder / "plan.json", (newest - A_DAY, newest - A_DAY))
    os.utime(folder / "000000.json", (newest, newest))
    return folder


def test_fan_outs_of_the_dead_go_and_those_under_way_stay(client: SyncPrefectClient, tmp_path: Path) -> None:
    parent = client.create_flow_run(_worked, parameters={"mark": "parent"}, state=Running()).id
    dead = _fan(tmp_path, "score-0123456789ab-000000000001", "", 8 * A_DAY)
    changing = _fan(tmp_path, "score-0123456789ab-000000000002", "", 6 * A_DAY)
    slow = _fan(tmp_path, "score-0123456789ab-000000000003", str(parent), 30 * A_DAY)
    strange = tmp_path / "_ecif" / "fan" / "notes" / "mine.json"
    strange.parent.mkdir()
    strange.write_text("{}")
    os.utime(strange, (0, 0))
    report = tmp_path / "_ecif" / "report" / "index.html"
    report.parent.mkdir()
    report.write_text("")
    os.utime(report, (0, 0))

    assert maintenance([str(tmp_path)], fan_days=7.0)["fans"] == 1
    assert list(dead.glob("*")) == []
    assert changing.exists()
    assert slow.exists()
    assert strange.exists()
    assert report.exists()
    client.delete_flow_run(parent)


def test_fan_outs_and_uploads_on_an_object_store(
    client: SyncPrefectClient, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = f"{s3_bucket.url}/out"
    storage = Storage(s3_bucket.options)
    storage.publish_json(Layout(out).fan_plan(KEY), {"stage": "score", "parent": ""})
    s3_bucket.client().create_multipart_upload(Bucket=s3_bucket.name, Key="out/00000.tar")
    s3_bucket.client().create_multipart_upload(Bucket=s3_bucket.name, Key="other/00000.tar")
    monkeypatch.setenv("ECIF_STORAGE_OPTIONS", json.dumps(s3_bucket.options))

    # moto says of every upload that it began in 2010.
    young = maintenance([out], upload_days=36_500.0)
    assert (young["fans"], young["uploads"]) == (0, 0)
    swept = maintenance([out], fan_days=NOW, upload_days=NOW)
    assert (swept["fans"], swept["uploads"]) == (1, 1)
    assert not storage.exists(Fan(KEY, Layout(out), storage).layout.fan_plan(KEY))
    left = s3_bucket.client().list_multipart_uploads(Bucket=s3_bucket.name)["Uploads"]
    assert [upload["Key"] for upload in left] == ["other/00000.tar"]


def test_what_fails_is_told_and_the_rest_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed, refused = tmp_path / "allowed", tmp_path / "refused"
    dead = _fan(allowed, KEY, "", 8 * A_DAY)
    untouched = _fan(refused, KEY, "", 8 * A_DAY)
    monkeypatch.setenv("ECIF_ALLOW", f'["{allowed}"]')
    with pytest.raises(EcifError, match=f"fans of {refused}.*not under an allowed prefix"):
        maintenance([str(refused), str(allowed)])
    assert list(dead.glob("*")) == []
    assert len(list(untouched.glob("*"))) == 2
