"""A worker of a work pool that runs flow runs in a thread of this process, in a second instead of twenty.

It does what a process worker does as far as Prefect's API can tell, and what becomes of a run is up to the test.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL

Act = Callable[[FlowRun, Callable[[], object]], object]


class Killed(BaseException):
    """The end of a worker's process: nothing but the engine's last words comes after it."""


class Worker:
    """Runs of a deployment of `flow`, one at a time.

    Attributes:
        runs: those that were taken, in order.
        most: how many were under way at the same time.
    """

    def __init__(self, flow: Flow[..., Any], act: Act) -> None:
        self._flow, self._act = flow, act
        self.runs: list[FlowRun] = []
        self.most = 0
        self._over = threading.Event()
        with _client() as client:
            flow_id = client.create_flow_from_name(flow.name)
            self._deployment = client.create_deployment(
                flow_id, flow.name, parameter_openapi_schema=flow.parameters.model_dump(), enforce_parameter_schema=True
            )

    def all_runs(self) -> list[FlowRun]:
        """All runs of the deployment, as they are now."""
        with _client() as client:
            return client.read_flow_runs(deployment_filter=self._only())

    def _only(self) -> DeploymentFilter:
        return DeploymentFilter(id=DeploymentFilterId(any_=[self._deployment]))

    def _work(self) -> None:
        waiting = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))
        taken: set[object] = set()
        while not self._over.wait(0.05):
            with _client() as client:
                found = client.read_flow_runs(deployment_filter=self._only(), flow_run_filter=waiting)
            new = sorted((run for run in found if run.id not in taken), key=lambda run: run.parameters["number"])
            self.most = max(self.most, len(new))
            for run in new[:1]:
                taken.add(run.id)
                self.runs.append(run)
                try:
                    self._act(run, partial(run_flow, self._flow, flow_run=run, parameters=run.parameters))
                except (Exception, Killed):
                    continue  # the engine has said so to the API

    @contextmanager
    def working(self) -> Iterator[Worker]:
        """Take runs inside the block."""
        thread = threading.Thread(target=copy_context().run, args=(self._work,))
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()
            with _client() as client:
                client.delete_deployment(self._deployment)


def _client() -> SyncPrefectClient:
    assert PREFECT_API_URL.value()
    return get_client(sync_client=True, httpx_settings={"timeout": 30.0})
