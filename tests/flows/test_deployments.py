"""prefect.yaml, checked with Prefect's own models: what it names exists, and what it passes is accepted."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import ConcurrencyLimitSpec, PrefectYamlModel
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.schedules import construct_schedule
from prefect.events import DeploymentTriggerTypes, EventTrigger
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.settings import Settings as PrefectSettings
from prefect.utilities.schema_tools.hydration import HydrationContext, hydrate
from prefect.utilities.schema_tools.validation import validate
from prefect.utilities.templating import find_placeholders
from pydantic import TypeAdapter

from ecif.settings import Settings
from flows import automations, environment, watch
from flows.fanout.deployment import deployment_of
from flows.notify import arrived
from tasks import stages

ROOT = Path(__file__).resolve().parents[2]
RAW: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))
DEPLOYMENTS: dict[str, dict[str, Any]] = {deployment["name"]: deployment for deployment in RAW["deployments"]}
GROUPS = [name for name in DEPLOYMENTS if name.endswith("-group")]
PARENTS = [name for name in DEPLOYMENTS if name not in GROUPS]
SCHEDULED = [name for name in DEPLOYMENTS if "schedules" in DEPLOYMENTS[name]]
OF_A_CORPUS = [name for name in PARENTS if name != "maintenance"]


def _flow(name: str) -> Flow[..., Any]:
    file, _, function = DEPLOYMENTS[name]["entrypoint"].partition(":")
    return load_flow_from_entrypoint(f"{ROOT / file}:{function}")


def test_the_file_is_valid() -> None:
    model = PrefectYamlModel.model_validate(RAW)
    assert [deployment.name for deployment in model.deployments] == list(DEPLOYMENTS)
    for step in RAW["pull"]:
        (name,) = step
        module, _, function = name.rpartition(".")
        inspect.signature(getattr(importlib.import_module(module), function)).bind(**step[name])


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_deployment_is_described_and_says_what_each_parameter_means(name: str) -> None:
    assert DEPLOYMENTS[name]["description"].endswith(".")
    for parameter, schema in _flow(name).parameters.properties.items():
        assert schema.get("description"), parameter


@pytest.mark.parametrize("name", PARENTS)
def test_the_flow_takes_the_parameters(name: str) -> None:
    parameters = DEPLOYMENTS[name]["parameters"]
    flow = _flow(name)
    validate(parameters, flow.parameters.model_dump(), raise_on_error=True)
    validated = flow.validate_parameters(parameters)
    assert set(parameters) <= set(validated)


@pytest.mark.parametrize("name", OF_A_CORPUS)
def test_all_work_on_one_corpus(name: str) -> None:
    parameters = _flow(name).validate_parameters(DEPLOYMENTS[name]["parameters"])
    assert parameters["sources"] == RAW["definitions"]["sources"]
    assert parameters["settings"]["out"] == RAW["definitions"]["out"]
    assert Settings(**parameters["settings"]).has_policy
    assert RAW["definitions"]["out"] in DEPLOYMENTS["maintenance"]["parameters"]["outs"]


@pytest.mark.parametrize(
    "wrong", [{"batch_sise": 3}, {"batch_size": 1}, {"drop": "2"}, {"storage_options": {"secret": "x"}}]
)
@pytest.mark.parametrize("name", OF_A_CORPUS)
def test_the_flow_refuses_wrong_settings(name: str, wrong: dict[str, Any]) -> None:
    parameters = DEPLOYMENTS[name]["parameters"]
    given = {**parameters, "settings": {**parameters["settings"], **wrong}}
    with pytest.raises(Exception, match=next(iter(wrong)).replace("_", "[-_]")):
        _flow(name).validate_parameters(given)


def test_the_server_refuses_a_run_without_what_is_needed() -> None:
    parameters = DEPLOYMENTS["clean"]["parameters"]
    settings = {name: value for name, value in parameters["settings"].items() if name != "validation"}
    with pytest.raises(Exception, match="validation"):
        validate({**parameters, "settings": settings}, _flow("clean").parameters.model_dump(), raise_on_error=True)


@pytest.mark.parametrize("name", PARENTS)
def test_parents_run_one_at_a_time(name: str) -> None:
    limit = ConcurrencyLimitConfig.model_validate(DEPLOYMENTS[name]["concurrency_limit"])
    assert ConcurrencyLimitSpec.model_validate(DEPLOYMENTS[name]["concurrency_limit"]).limit == limit.limit == 1
    # What a person or an event has asked for must not be lost; what a schedule asks for comes again.
    by_schedule_only = name in ("watch", "maintenance")
    assert limit.collision_strategy.name == ("CANCEL_NEW" if by_schedule_only else "ENQUEUE")


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_what_computes_goes_to_devices_and_what_waits_does_not(name: str) -> None:
    pool = DEPLOYMENTS[name]["work_pool"]["name"]
    assert pool == ("gpu" if name in ("fit", "fit-group", "score-group") else "cpu")


def test_a_worker_of_five_slots_cannot_be_filled_with_parents_that_wait() -> None:
    """docs/deployments.md names this number: one slot must be left for the groups that a parent waits for."""
    waiting = [name for name in PARENTS if DEPLOYMENTS[name]["work_pool"]["name"] == "cpu"]
    assert sum(DEPLOYMENTS[name]["concurrency_limit"]["limit"] for name in waiting) == 4


def test_the_workers_that_we_ship_have_a_slot_for_groups() -> None:
    """A pod or a task of its own for every run has no limit that could be filled."""
    slots = []
    for path in (ROOT / "infra").rglob("*"):
        if path.is_file():
            words = re.findall(r"[\w.-]+", path.read_text("utf-8", errors="replace"))
            for at, word in enumerate(words):
                if word == "--pool" and words[at + 1] == "cpu" and words[at + 2] == "--limit":
                    slots.append(int(words[at + 3]))
    assert slots
    assert min(slots) > 4


def test_nothing_that_holds_a_device_waits_for_one() -> None:
    on_devices = [name for name in PARENTS if DEPLOYMENTS[name]["work_pool"]["name"] == "gpu"]
    assert [DEPLOYMENTS[name]["parameters"]["settings"]["fan_out"] for name in on_devices] == ["local"]


@pytest.mark.parametrize("stage", ["fit", "score", "write", "pack"])
def test_the_deployments_of_groups_are_those_that_parents_ask_for(stage: str) -> None:
    flow, _, name = deployment_of(stage).partition("/")
    assert _flow(name).name == flow
    assert GROUPS.count(name) == 1
    # Whoever starts it names the work; a group has no default.
    assert "parameters" not in DEPLOYMENTS[name]
    assert set(_flow(name).parameters.required) == {"out", "fan_key", "number"}


def test_watch_starts_what_exists() -> None:
    flow, _, name = watch.CLEANING.partition("/")
    assert _flow(name).name == flow


@pytest.mark.parametrize("name", SCHEDULED)
def test_schedules(name: str) -> None:
    (schedule,) = DEPLOYMENTS[name]["schedules"]
    built = construct_schedule(cron=schedule["cron"], timezone=schedule["timezone"])
    assert built.model_dump()["cron"] == schedule["cron"]
    assert schedule["slug"]


def test_what_runs_by_itself() -> None:
    assert SCHEDULED == ["clean", "watch", "maintenance"]
    assert [name for name in DEPLOYMENTS if "triggers" in DEPLOYMENTS[name]] == ["clean-on-arrival"]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_tags_and_environment_are_those_of_the_automations(name: str) -> None:
    tags = DEPLOYMENTS[name]["tags"]
    assert automations.TAG in tags
    assert (automations.ALERT in tags) == (name in PARENTS)
    variables: dict[str, str] = DEPLOYMENTS[name]["work_pool"]["job_variables"]["env"]
    assert variables["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(automations.HEARTBEAT_SECONDS)
    assert variables == RAW["definitions"]["environment"]
    assert all(isinstance(value, str) for value in variables.values())


def test_the_environment_is_one_that_prefect_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in RAW["definitions"]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = PrefectSettings()
    assert settings.flows.heartbeat_frequency == automations.HEARTBEAT_SECONDS
    assert settings.results.default_serializer == "json"
    assert settings.logging.log_prints is True


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_results_are_json_and_nothing_else(name: str) -> None:
    """Prefect's default is pickle, by which whoever may write the result storage runs code in workers."""
    assert RAW["definitions"]["environment"]["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"
    assert environment.DEFAULTS["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"
    assert _flow(name).result_serializer in (None, "json")
    tasks = (stages.fit_group, stages.score_group, stages.write_group, stages.pack_group)
    assert {task.result_serializer for task in tasks} == {"json"}


def test_nothing_in_the_file_is_secret() -> None:
    text = (ROOT / "prefect.yaml").read_text("utf-8")
    for name in ("storage_options", "SECRET", "PASSWORD", "TOKEN", "prefect.blocks"):
        assert name not in text


def _rendered(payload: dict[str, Any]) -> dict[str, Any]:
    """The parameters that the trigger makes of an event's payload, as the server does."""
    (raw,) = DEPLOYMENTS["clean-on-arrival"]["triggers"]
    (placeholder,) = find_placeholders(raw["parameters"]["prefix"])
    assert placeholder.name == "event.payload.prefix"
    templated = {name: {"__prefect_kind": "jinja", "template": value} for name, value in raw["parameters"].items()}
    context = HydrationContext(render_jinja=True, jinja_context={"event": {"payload": payload}})
    found: dict[str, Any] = hydrate(templated, context)
    return DEPLOYMENTS["clean-on-arrival"]["parameters"] | found


def test_arrivals_are_triggered_by_the_event_that_we_send() -> None:
    (raw,) = DEPLOYMENTS["clean-on-arrival"]["triggers"]
    trigger: Any = TypeAdapter(DeploymentTriggerTypes).validate_python(raw)
    assert isinstance(trigger, EventTrigger)
    event = arrived("s3://bucket/raw/new/", "raw")
    assert trigger.expect == {event.event}
    assert event.resource.id.startswith(raw["match"]["prefect.resource.id"].removesuffix("*"))
    parameters = _rendered(event.payload)
    assert _flow("clean-on-arrival").validate_parameters(parameters)["prefix"] == "s3://bucket/raw/new/"
    assert parameters["sources"] == DEPLOYMENTS["clean"]["parameters"]["sources"]


@pytest.mark.parametrize("payload", [{}, {"prefix": ""}, {"prefix": "pipe:cat x"}, {"prefix": "a::b"}])
def test_an_event_that_names_no_prefix_starts_no_work(payload: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="prefix"):
        _flow("clean-on-arrival").validate_parameters(_rendered(payload))


def test_an_event_chooses_nothing_but_a_prefix() -> None:
    """Whoever may emit must not choose what is read, where it goes, or how."""
    forged = {"prefix": "s3://bucket/raw/", "sources": ["s3://other/"], "settings": {"out": "s3://other/"}}
    assert _rendered(forged) == DEPLOYMENTS["clean-on-arrival"]["parameters"] | {"prefix": "s3://bucket/raw/"}
