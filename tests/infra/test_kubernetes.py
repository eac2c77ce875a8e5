"""The job templates of the work pools, filled in as Prefect's worker does it, and what their pods are allowed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from prefect.server.schemas.actions import validate_base_job_template
from prefect.utilities.templating import find_placeholders

from infra.kubernetes.render import job, template

FOLDER = Path(__file__).resolve().parents[2] / "infra"
POOLS = ("gpu", "cpu")
QUANTITY = re.compile(r"\d+(m|Mi|Gi)?")


def _pod(pool: str, **given: Any) -> dict[str, Any]:
    pod: dict[str, Any] = job(pool, given)["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("pool", POOLS)
def test_prefect_takes_it_and_every_variable_is_used(pool: str) -> None:
    found = template(pool)
    assert validate_base_job_template(found) == found
    fields = found["variables"]["properties"]
    Draft202012Validator.check_schema(found["variables"])
    defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
    Draft202012Validator(found["variables"]).validate(defaults)
    assert {one.name for one in find_placeholders(found["job_configuration"])} == set(fields)
    # Prefect's worker sets these; what it does not know it ignores.
    assert {"name", "command", "env", "labels", "job_manifest"} <= set(found["job_configuration"])


def test_the_two_pools_differ_in_defaults_only() -> None:
    gpu, cpu = (template(pool) for pool in POOLS)
    for found in (gpu, cpu):
        for field in found["variables"]["properties"].values():
            field.pop("default", None)
    assert gpu == cpu


@pytest.mark.parametrize(("pool", "gpus"), [("gpu", 1), ("cpu", 0)])
def test_a_pod_has_its_devices_shared_memory_and_tolerations(pool: str, gpus: int) -> None:
    pod = _pod(pool)
    (container,) = pod["containers"]
    for part in ("requests", "limits"):
        assert container["resources"][part]["nvidia.com/gpu"] == gpus
        assert all(QUANTITY.fullmatch(container["resources"][part][name]) for name in ("cpu", "memory"))
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}
    assert volumes[mounts["/dev/shm"]] == {"medium": "Memory", "sizeLimit": "2Gi" if gpus else "1Gi"}
    assert {mounts[path] for path in ("/scratch", "/tmp", "/home/ecif")} == {"scratch"}
    wanted = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["tolerations"] == (wanted if gpus else [])


def test_a_deployment_may_ask_for_more() -> None:
    taint = [{"key": "spot", "operator": "Exists"}]
    pod = _pod("gpu", gpus=4, shared_memory="16Gi", tolerations=taint, node_selector={"gpu": "h100"})
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert pod["volumes"][0]["emptyDir"]["sizeLimit"] == "16Gi"
    assert (pod["tolerations"], pod["nodeSelector"]) == (taint, {"gpu": "h100"})


@pytest.mark.parametrize("pool", POOLS)
def test_a_pod_is_restricted(pool: str) -> None:
    """What Kubernetes calls the restricted standard, and no token of the cluster."""
    pod = _pod(pool)
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert all(set(volume) == {"name", "emptyDir"} for volume in pod["volumes"])


@pytest.mark.parametrize("pool", POOLS)
def test_kubernetes_does_not_repeat_what_prefect_does(pool: str) -> None:
    made = job(pool, {})
    assert made["spec"]["backoffLimit"] == 0
    assert made["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_variables_of_a_run_reach_its_container() -> None:
    container = _pod("cpu", env={"PREFECT_LOGGING_LOG_PRINTS": "true"})["containers"][0]
    assert container["env"] == [{"name": "PREFECT_LOGGING_LOG_PRINTS", "value": "true"}]
    assert container["args"] == ["prefect", "flow-run", "execute"]


@pytest.mark.parametrize("pool", POOLS)
def test_what_the_pods_refer_to_is_in_objects_yaml(pool: str) -> None:
    objects = list(yaml.safe_load_all((FOLDER / "kubernetes" / "objects.yaml").read_text("utf-8")))
    names = {(one["kind"], one["metadata"]["name"]) for one in objects}
    pod = _pod(pool)
    settings, secret = pod["containers"][0]["envFrom"]
    assert ("ServiceAccount", pod["serviceAccountName"]) in names
    assert ("ConfigMap", settings["configMapRef"]["name"]) in names
    assert secret["secretRef"]["optional"] is True  # not needed where the account's role gives the credentials
    (shared,) = [one for one in objects if one["kind"] == "ConfigMap"]
    assert json.loads(shared["data"]["ECIF_ALLOW"])
    assert not re.search("SECRET|PASSWORD|AUTH|KEY", json.dumps(shared["data"]))
