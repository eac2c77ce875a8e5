"""The pinned set runs a Prefect server whose schedules create runs.

With a set that resolves but does not fit, the server either stops on import or starts and silently schedules
nothing; only a run that appears tells that neither is the case (see the bounds in pyproject.toml).
"""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

pytestmark = [pytest.mark.integration, pytest.mark.smoke]

APPEARS_SECONDS = 120  # the scheduler looks for new deployments every few seconds


@pytest.mark.parametrize(
    "schedule",
    [IntervalSchedule(interval=timedelta(minutes=10)), CronSchedule(cron="*/10 * * * *", timezone="UTC")],
    ids=["interval", "cron"],
)
def test_a_schedule_creates_runs(prefect_server: str, schedule: IntervalSchedule | CronSchedule) -> None:
    with SyncPrefectClient(api=prefect_server) as client:
        flow_id = client.create_flow_from_name("smoke")
        deployment_id = client.create_deployment(
            flow_id=flow_id,
            name=type(schedule).__name__,
            schedules=[DeploymentScheduleCreate(schedule=schedule, active=True)],
        )
        only_this = DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id]))
        deadline = time.monotonic() + APPEARS_SECONDS
        while not (runs := client.read_flow_runs(deployment_filter=only_this)):
            assert time.monotonic() < deadline, f"no run was scheduled within {APPEARS_SECONDS} s"
            time.sleep(1)
    for run in runs:
        assert run.auto_scheduled
        assert run.expected_start_time is not None
        assert run.state is not None
        assert run.state.type is StateType.SCHEDULED
