"""A small corpus on an S3 server, cleaned by deployments: what the tests of the orchestration work on.

Workers reach the server through a proxy. It makes outages, it acts at a chosen request (so that something happens in
the middle of a stage, and not by luck), and what it saw tells which work was done twice.
"""

from __future__ import annotations

import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from bench.matrix import stable
from bench.places import Files, Prefix, Server
from bench.world import SMALL, shard
from tests.integration.faultproxy import Meanwhile, Proxy, Rule
from tests.integration.orchestra import AUTH, Orchestra, declaration

SAMPLES = 12
SETTINGS = {
    **SMALL,
    "fan_out": "local",
    "group_size": 2,
    "drop": "0.25",
    "patience": 20,
}


@dataclass
class Field:
    """The corpus in a bucket, its output, and the way there.

    Attributes:
        model: config and weights, on this machine.
        shards: how many tars there are now.
    """

    server: Server
    bucket: str
    proxy: Proxy
    model: tuple[Path, Path]
    shards: int = 0

    def __post_init__(self) -> None:
        self.raw, self.out = Prefix(self.server, self.bucket, "raw"), Prefix(self.server, self.bucket, "out")
        Prefix(self.server, self.bucket, "trusted").put("validation.tar", shard(9999)[0])

    @property
    def sources(self) -> list[str]:
        """The directory of the tars."""
        return [f"s3://{self.bucket}/raw/"]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that clean it in seconds."""
        named = {"validation": [f"s3://{self.bucket}/trusted/validation.tar"], "out": self.out.url}
        return {**SETTINGS, **named, "model": str(self.model[0]), "pretrained": str(self.model[1])}

    def declaration(self, crons: Mapping[str, str] = {}) -> dict[str, Any]:
        """prefect.yaml for this corpus; `crons`: other schedules, by deployment."""
        return declaration(self.sources, self.settings, crons)

    @property
    def environment(self) -> dict[str, str]:
        """What a worker needs to reach it, and no more."""
        return {
            "AWS_ENDPOINT_URL": self.proxy.url,
            "AWS_ACCESS_KEY_ID": self.server.key,
            "AWS_SECRET_ACCESS_KEY": self.server.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "ECIF_ALLOW": f'["s3://{self.bucket}/", "/"]',
        }

    def arrive(self, count: int, folder: str = "") -> list[str]:
        """Upload the next tars; returns their names without `.tar`."""
        names = []
        for number in range(self.shards, self.shards + count):
            names.append(f"{folder}{number:05d}")
            self.raw.put(f"{names[-1]}.tar", shard(number, samples=SAMPLES)[0])
        self.shards += count
        return names

    def result(self) -> Files:
        """Everything in the output that is a function of the input.

        Not what a fan-out hands out meanwhile, nor the record of the event, which says when that was.
        """
        passing = ("_ecif/fan/", "_ecif/announced/")
        return {name: data for name, data in stable(self.out.read()).items() if not name.startswith(passing)}

    def at(self, act: Callable[[], object], method: str, name: str, skip: int = 0) -> None:
        """Do something when a request for a name in the output arrives, once, before it is forwarded."""
        target = f"/{self.bucket}/out/{name}"
        self.proxy.rules.append(Rule(Meanwhile(act), method=method, target=target, skip=skip, times=1))

    def passes(self) -> Counter[str]:
        """How often each tar was read since the proxy was cleared: fit, score and write are a pass each."""
        pattern = re.compile(rf"GET /{self.bucket}/raw/([^?]*)\.tar$")
        found = (pattern.match(line) for line in self.proxy.seen)
        return Counter(match[1] for match in found if match)

    def writes(self, names: Sequence[str]) -> Counter[str]:
        """How often each file of the output whose name matches was uploaded since the proxy was cleared."""
        pattern = re.compile(rf"PUT /{self.bucket}/out/({'|'.join(names)})$")
        found = (pattern.match(unquote(line)) for line in self.proxy.seen)
        return Counter(match[1] for match in found if match)

    def times(self, prefix: str) -> dict[str, float]:
        """When each file of the output below a prefix was written, as seconds since 1970 of the server's clock."""
        pages = self.out.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"out/{prefix}")
        found = (item for page in pages for item in page.get("Contents", ()))
        return {item["Key"].removeprefix("out/"): item["LastModified"].timestamp() for item in found}


def announce(orchestra: Orchestra, prefix: str) -> None:
    """What `ecif notify` does, in this process: the event that shards have arrived below a prefix."""
    from flows.notify import run_notify

    with temporary_settings({PREFECT_API_URL: orchestra.api, PREFECT_API_AUTH_STRING: AUTH}):
        run_notify([prefix], "corpus")


def start(orchestra: Orchestra, deployment: str, **parameters: Any) -> uuid.UUID:
    """Ask for a run of a deployment (`flow/deployment`) now; returns its id."""
    with orchestra.client() as client:
        found = client.read_deployment_by_name(deployment)
        return client.create_flow_run_from_deployment(found.id, parameters=parameters).id


def wait(orchestra: Orchestra, run: uuid.UUID, *, seconds: float = 240, until: str = "") -> FlowRun:
    """Wait for the end of a run, or until it is in a state of type `until`.

    Raises:
        TimeoutError: it did not come.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = asked(orchestra, run)
        if found.state is not None and (found.state.is_final() or found.state.type == until):
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"run {found.name} is {found.state!r} after {seconds} s")
        time.sleep(0.5)


def asked(orchestra: Orchestra, run: uuid.UUID) -> FlowRun:
    """A run as the server has it."""
    with orchestra.client() as client:
        return client.read_flow_run(run)


def runs_of(orchestra: Orchestra, deployment: str, **matching: Any) -> list[FlowRun]:
    """The runs of a deployment (its own name) with such fields, oldest first."""
    only = DeploymentFilter(name=DeploymentFilterName(any_=[deployment]))
    with orchestra.client() as client:
        found = client.read_flow_runs(deployment_filter=only, limit=200)
    kept = [run for run in found if all(getattr(run, name) == value for name, value in matching.items())]
    return sorted(kept, key=lambda run: run.created.timestamp() if run.created else 0.0)


def eventually(look: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """The first true answer of `look`.

    Raises:
        TimeoutError: none came.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := look():
            return answer
        time.sleep(0.5)
    raise TimeoutError(f"{what}: not within {seconds} s")
