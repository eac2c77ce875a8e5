"""compose.yaml is closed by default: who may ask what, as whom it runs, and what it may use up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import Settings as PrefectSettings
from prefect.settings import get_current_settings

FOLDER = Path(__file__).resolve().parents[2] / "infra"
TEXT = (FOLDER / "compose.yaml").read_text("utf-8")
EXAMPLE = (FOLDER / "compose.env.example").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("ecif:")]
ONCE = [name for name, service in SERVICES.items() if service["restart"] == "no"]
# ${NAME:?why} stops the start; ${NAME:-value} does not, and ${NAME} alone is empty without a word.
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(:\?[^}]*|:-[^}]*)?\}")
SECRET = re.compile(r"PASSWORD|SECRET|AUTH|_KEY\b|S3_KEY|ACCESS_KEY")


@pytest.mark.parametrize("name", SERVICES)
def test_it_runs_as_an_ordinary_user_without_privileges(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] not in ("", "root", "0", "0:0")
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "ipc", "network_mode", "devices"} & set(service)
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", ()))
    if name in OURS:
        assert service["read_only"] is True


@pytest.mark.parametrize("name", SERVICES)
def test_it_has_limits_and_says_whether_it_is_well(name: str) -> None:
    service = SERVICES[name]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    if name in ONCE:
        assert service["healthcheck"] == {"disable": True}
    else:
        assert set(service["healthcheck"]) == {"test", "interval", "timeout", "start_period", "retries"}
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_to_this_machine_only(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)
    if name in ("postgres", "redis", "services", "buckets", "deploy"):
        assert SERVICES[name]["networks"] == ["inside"]
    assert COMPOSE["networks"]["inside"] == {"internal": True}


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_come_from_outside_and_never_have_a_default(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if SECRET.search(variable) and not variable.endswith("_ORDERING"):
            uses = VARIABLE.findall(value)
            assert uses, f"{variable} is written down"
            assert all(kind.startswith(":?") for _, kind in uses), f"{variable} may be empty"
    # A command line can be read by everybody on the machine: the variable is named there, its value is not.
    assert not VARIABLE.search(json.dumps(SERVICES[name].get("command", "")))


def test_every_variable_stands_in_the_example_and_secrets_are_empty_there() -> None:
    offered = dict(re.findall(r"^(?:# )?(\w+)=(.*)$", EXAMPLE, re.M))
    used = {found for found, _ in VARIABLE.findall(TEXT)}
    assert set(offered) == used
    assert [name for name, value in offered.items() if SECRET.search(name) and value] == []
    assert json.loads(offered["ECIF_ALLOW"]) == ["s3://raw/", "s3://clean/"]


def test_the_env_file_itself_is_not_for_git() -> None:
    assert ".env" in (FOLDER / ".gitignore").read_text("utf-8").splitlines()


def test_server_and_clients_know_the_same_password() -> None:
    password = "${PREFECT_AUTH:?set PREFECT_AUTH in infra/.env}"
    for name in ("server", "services"):
        assert SERVICES[name]["environment"]["PREFECT_SERVER_API_AUTH_STRING"] == password
    for name in ("deploy", "worker-cpu", "worker-gpu"):
        assert SERVICES[name]["environment"]["PREFECT_API_AUTH_STRING"] == password
        assert SERVICES[name]["environment"]["PREFECT_API_URL"] == "http://server:4200/api"


def test_prefect_understands_every_variable_of_its_own() -> None:
    """A misspelt name would be ignored: each must change what Prefect reads."""
    known = _variables(get_current_settings())
    elsewhere = {"PREFECT_REDIS_MESSAGING_HOST", "PREFECT_REDIS_MESSAGING_PORT", "PREFECT_REDIS_MESSAGING_PASSWORD"}
    asked = {
        variable
        for service in SERVICES.values()
        for variable in service.get("environment", {})
        if variable.startswith("PREFECT_")
    }
    assert asked - elsewhere - known == set()


def _variables(settings: PrefectSettings) -> set[str]:
    """Every name under which a setting of Prefect can be given."""
    found: set[str] = set()

    def walk(model: Any) -> None:
        for name, field in type(model).model_fields.items():
            value = getattr(model, name)
            if hasattr(type(value), "model_fields"):
                walk(value)
            found.add(f"{type(model).model_config['env_prefix']}{name}".upper())
            aliases = getattr(field.validation_alias, "choices", [])
            found.update(alias.upper() for alias in aliases if isinstance(alias, str))

    walk(settings)
    return found


def test_workers_serve_the_pools_of_prefect_yaml() -> None:
    deployments = yaml.safe_load((FOLDER.parent / "prefect.yaml").read_text("utf-8"))["deployments"]
    wanted = {deployment["work_pool"]["name"] for deployment in deployments}
    served = {_pool(SERVICES[name]["command"]) for name in ("worker-cpu", "worker-gpu")}
    assert served == wanted == {"cpu", "gpu"}
    assert "for pool in cpu gpu;" in SERVICES["deploy"]["command"][2]


def test_a_gpu_worker_has_one_device_and_does_one_run_at_a_time() -> None:
    worker = SERVICES["worker-gpu"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["device_ids"], device["capabilities"]) == ("nvidia", ["0"], ["gpu"])
    assert worker["command"][worker["command"].index("--limit") + 1] == "1"
    assert worker["profiles"] == ["gpu"]
    assert {SERVICES[name]["shm_size"] for name in ("worker-cpu", "worker-gpu")} == {"1g", "2g"}


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_ours_or_pinned_to_a_release(name: str) -> None:
    if name not in OURS:
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+(\.\d+)?(-[a-z]+)?", SERVICES[name]["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_it_waits_for_what_it_needs(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        assert how == {"condition": "service_completed_successfully" if needed in ONCE else "service_healthy"}


def _pool(command: list[str]) -> str:
    return command[command.index("--pool") + 1]
