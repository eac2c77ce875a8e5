"""A slot of a deployment is a lease, and a server that forgets leases when it restarts ends the runs that hold one.

`python -m bench.leases` shows it; docs/deployments.md says what follows.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.server.concurrency.lease_storage import ConcurrencyLeaseStorage

FOLDER = Path(__file__).resolve().parents[2] / "infra"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))
HELM: dict[str, Any] = yaml.safe_load((FOLDER / "helm" / "server.yaml").read_text("utf-8"))
STORAGE = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"
REDIS = "prefect_redis.lease_storage"  # the one that several processes can share


@pytest.mark.parametrize("name", ["server", "services"])
def test_both_processes_of_compose_keep_leases_in_redis(name: str) -> None:
    environment = COMPOSE["services"][name]["environment"]
    assert environment[STORAGE] == REDIS
    assert environment["PREFECT_REDIS_MESSAGING_HOST"] == "redis"


def test_redis_of_compose_outlives_a_restart_of_its_own() -> None:
    redis = COMPOSE["services"]["redis"]
    assert "--dir /data --appendonly yes" in redis["command"][2]
    assert redis["volumes"] == ["events:/data"]
    assert "events" in COMPOSE["volumes"]


def test_the_chart_is_told_of_redis_and_nothing_sets_leases_to_something_else() -> None:
    # The chart sets the variable for both of its deployments where the broker is this one, and puts ours before it or
    # behind it: a second value would win in one of them.
    services = HELM["backgroundServices"]
    assert services["runAsSeparateDeployment"]
    assert services["messaging"]["broker"] == services["messaging"]["cache"] == "prefect_redis.messaging"
    lists = (HELM["global"]["prefect"]["env"], HELM["server"].get("env", []), services.get("env", []))
    assert STORAGE not in {one["name"] for each in lists for one in each}


def test_the_server_image_has_that_storage() -> None:
    assert "prefect-redis" in (FOLDER / "docker" / "server.txt").read_text("utf-8")
    assert issubclass(importlib.import_module(REDIS).ConcurrencyLeaseStorage, ConcurrencyLeaseStorage)
