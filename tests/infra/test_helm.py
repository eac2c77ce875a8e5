"""Values of the charts: passwords come from secrets, versions are pinned, and nothing is open to the outside.

Whether the charts know each value was checked with their own schemas (infra/README.md); those are not part of this
repository.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "infra" / "helm"
SERVER: dict[str, Any] = yaml.safe_load((FOLDER / "server.yaml").read_text("utf-8"))
WORKER: dict[str, Any] = yaml.safe_load((FOLDER / "worker.yaml").read_text("utf-8"))


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, name)
    else:
        yield name, value


def test_both_ask_for_a_password_from_one_secret() -> None:
    server = SERVER["server"]["basicAuth"]
    worker = WORKER["worker"]["selfHostedServerApiConfig"]["basicAuth"]
    assert server == worker == {"enabled": True, "existingSecret": "prefect-auth"}


def test_nothing_secret_is_written_down() -> None:
    named = re.compile(r"(password|authString|connectionString|token)$", re.I)
    found = [name for values in (SERVER, WORKER) for name, value in _leaves(values) if named.search(name) and value]
    assert found == []


def test_jobs_get_the_password_by_reference() -> None:
    given = {one["name"]: one["value"] for one in WORKER["worker"]["extraEnvVars"]}
    prefix = "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET"
    assert (given[f"{prefix}_NAME"], given[f"{prefix}_KEY"]) == ("prefect-auth", "auth-string")


def test_the_images_are_those_of_the_release_that_is_tested() -> None:
    release = metadata.version("prefect")
    assert SERVER["global"]["prefect"]["image"]["prefectTag"] == f"{release}-python3.11"
    assert WORKER["worker"]["image"]["prefectTag"] == f"{release}-python3.11-kubernetes"


def test_the_server_keeps_its_state_elsewhere_and_is_not_exposed() -> None:
    assert not SERVER["postgresql"]["enabled"]
    assert not SERVER["redis"]["enabled"]
    assert SERVER["externalDatabase"]["existingSecret"] == "prefect-database"
    assert not SERVER["ingress"]["enabled"]
    assert SERVER["service"]["type"] == "ClusterIP"
    services = SERVER["backgroundServices"]
    # Two processes have no memory in common: their messages need Redis.
    assert services["runAsSeparateDeployment"]
    assert services["messaging"]["redis"]["existingSecret"]
    assert services["messaging"]["docket"]["existingSecret"]


def test_containers_drop_what_they_do_not_need() -> None:
    for part in (SERVER["server"], SERVER["backgroundServices"], WORKER["worker"]):
        assert part["containerSecurityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} == set(part["resources"])
