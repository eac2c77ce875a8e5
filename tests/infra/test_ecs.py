"""Task definitions, against the model of ECS's own API in botocore, and the rules of Fargate that it does not hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from string import Template
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

FOLDER = Path(__file__).resolve().parents[2] / "infra" / "ecs"
NAMES = ("worker-gpu", "worker-cpu", "poller")
VARIABLES = {
    "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/ecif:cuda",
    "prefect_api_url": "https://prefect.example.org/api",
    "prefect_auth_secret_arn": "arn:aws:secretsmanager:us-east-1:123456789012:secret:prefect-auth",
    "sources_bucket": "raw",
    "sources_prefix": "pairs/",
    "output_bucket": "clean",
    "output_prefix": "one/",
    "queue_url": "https://sqs.us-east-1.amazonaws.com/123456789012/ecif-arrivals",
    "region": "us-east-1",
    "log_group": "/ecif",
    "execution_role_arn": "arn:aws:iam::123456789012:role/ecif-execution",
    "worker_role_arn": "arn:aws:iam::123456789012:role/ecif-worker",
    "poller_role_arn": "arn:aws:iam::123456789012:role/ecif-poller",
}
# Of Fargate: memory in MiB that goes with so much CPU.
FARGATE = {"256": range(512, 2049, 512), "4096": range(8192, 30721, 1024)}


def _task(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Template((FOLDER / f"{name}.json").read_text("utf-8")).substitute(VARIABLES))
    return found


def _container(name: str) -> dict[str, Any]:
    (container,) = _task(name)["containerDefinitions"]
    found: dict[str, Any] = container
    return found


@pytest.mark.parametrize("name", NAMES)
def test_ecs_knows_every_field(name: str) -> None:
    service = botocore.session.get_session().get_service_model("ecs")
    shape = service.operation_model("RegisterTaskDefinition").input_shape
    report = ParamValidator().validate(_task(name), shape)
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_restricted(name: str) -> None:
    container = _container(name)
    assert container["user"] == "1001:1001"
    assert container["readonlyRootFilesystem"] is True
    assert container["linuxParameters"]["capabilities"] == {"drop": ["ALL"]}
    assert "privileged" not in container


@pytest.mark.parametrize("name", NAMES)
def test_the_password_comes_from_the_secrets_manager(name: str) -> None:
    container = _container(name)
    assert [secret["name"] for secret in container["secrets"]] == ["PREFECT_API_AUTH_STRING"]
    given = {one["name"]: one["value"] for one in container["environment"]}
    assert [one for one in given if re.search("SECRET|PASSWORD|AUTH|ACCESS_KEY", one)] == []
    assert json.loads(given["ECIF_ALLOW"]) == ["s3://raw/pairs/", "s3://clean/one/"]


def test_a_worker_has_one_gpu_and_does_one_run_at_a_time() -> None:
    container = _container("worker-gpu")
    assert container["resourceRequirements"] == [{"type": "GPU", "value": "1"}]
    assert container["linuxParameters"]["sharedMemorySize"] == 2048
    assert container["command"][container["command"].index("--pool") + 1] == "gpu"
    assert container["command"][container["command"].index("--limit") + 1] == "1"
    assert _task("worker-gpu")["requiresCompatibilities"] == ["EC2"]  # Fargate has no GPUs


@pytest.mark.parametrize("name", ["worker-cpu", "poller"])
def test_fargate_takes_the_sizes(name: str) -> None:
    task = _task(name)
    assert int(task["memory"]) in FARGATE[task["cpu"]]
    assert "sharedMemorySize" not in _container(name)["linuxParameters"]
    assert 21 <= task["ephemeralStorage"]["sizeInGiB"] <= 200


def test_each_has_the_role_of_its_work() -> None:
    roles = {name: _task(name)["taskRoleArn"].rpartition("/")[2] for name in NAMES}
    assert roles == {"worker-gpu": "ecif-worker", "worker-cpu": "ecif-worker", "poller": "ecif-poller"}


def test_the_poller_hears_of_the_sources_only() -> None:
    assert _container("poller")["command"] == ["ecif", "poll", VARIABLES["queue_url"], "s3://raw/pairs/"]
