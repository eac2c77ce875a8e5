"""The shipped automations are on the server after they were applied, once and as they should be."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import Automation, EventTrigger
from prefect.settings import get_current_settings

from ecif.errors import UsageError
from flows import automations

ROOT = Path(__file__).resolve().parents[2]
NAMES = {automations.ZOMBIES, automations.STILLBORN, automations.FAILURES, automations.WAITING}


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as found:
        for automation in _ours(found):
            found.delete_automation(automation.id)
        yield found


def _ours(client: SyncPrefectClient) -> list[Automation]:
    return [one for one in client.read_automations() if one.name.startswith(automations.PREFIX)]


def test_applied_again_nothing_changes(client: SyncPrefectClient) -> None:
    assert automations.apply(client, automations.shipped()) == dict.fromkeys(NAMES, "created")
    before = {one.id for one in _ours(client)}
    assert automations.apply(client, automations.shipped()) == dict.fromkeys(NAMES, "unchanged")
    assert {one.id for one in _ours(client)} == before


def test_what_somebody_changed_is_set_right_and_what_somebody_paused_stays_so(client: SyncPrefectClient) -> None:
    automations.apply(client, automations.shipped(silence=timedelta(hours=9)))
    (zombies,) = client.read_automations_by_name(automations.ZOMBIES)
    client.pause_automation(zombies.id)
    changes = automations.apply(client, automations.shipped())
    assert changes[automations.ZOMBIES] == "updated"
    (mended,) = client.read_automations_by_name(automations.ZOMBIES)
    assert isinstance(mended.trigger, EventTrigger)
    assert mended.trigger.within == automations.SILENCE
    assert (mended.id, mended.enabled) == (zombies.id, False)


def test_a_name_that_stands_twice_stands_once(client: SyncPrefectClient) -> None:
    for _ in range(2):
        client.create_automation(automations.shipped()[0])
    automations.apply(client, automations.shipped())
    assert sorted(one.name for one in _ours(client)) == sorted(NAMES)


def test_others_automations_are_left_alone(client: SyncPrefectClient) -> None:
    theirs = automations.shipped()[0].model_copy(update={"name": "crash zombie runs"})
    kept = client.create_automation(theirs)
    automations.apply(client, automations.shipped())
    found = client.read_automation(kept)
    assert found is not None
    client.delete_automation(kept)


def test_a_healthy_run_is_never_silent_for_so_long() -> None:
    """Two heartbeats may get lost; and infrastructure has its grace before a run counts as never begun."""
    assert timedelta(seconds=3 * automations.HEARTBEAT_SECONDS) < automations.SILENCE
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["definitions"]
    assert timedelta(seconds=declared["in_turn"]["grace_period_seconds"]) < automations.STARTUP


def test_notifications_go_to_the_block_that_is_named(client: SyncPrefectClient) -> None:
    block = UUID(int=7)
    for automation in automations.shipped(block)[2:]:
        (action,) = automation.actions
        assert action.model_dump()["block_document_id"] == block


def test_a_notification_quotes_no_message() -> None:
    """The message of a state may hold names and captions of strangers'."""
    for automation in automations.shipped(UUID(int=7))[2:]:
        (action,) = automation.actions
        assert set(re.findall(r"{{ *([^}]*?) *}}", action.model_dump()["body"])) <= {
            "flow_run.name",
            "flow_run.id",
            "flow_run|ui_url",
            "event.event",
        }


@pytest.mark.parametrize(("name", "says"), [("slack-webhook/none", "no block"), ("none", "TYPE/NAME")])
def test_a_block_that_is_not_there_is_said(client: SyncPrefectClient, name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        automations.notification_block(client, name)


def test_the_command_says_what_it_did(client: SyncPrefectClient) -> None:
    api = get_current_settings().api.url
    assert api is not None
    command = [sys.executable, str(ROOT / "infra" / "automations" / "apply.py")]
    done = subprocess.run(command, env={**os.environ, "PREFECT_API_URL": api}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"created    {name}" for name in sorted(NAMES)]
    assert len(_ours(client)) == len(NAMES)
