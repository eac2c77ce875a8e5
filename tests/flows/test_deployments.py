"""prefect.yaml, checked with Prefect's own models: what it names exists, and what it passes is accepted."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.schemas.schedules import construct_schedule
from prefect.events import DeploymentTriggerTypes, EventTrigger
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.schema_tools.hydration import HydrationContext, hydrate
from prefect.utilities.schema_tools.validation import validate
from prefect.utilities.templating import find_placeholders
from pydantic import TypeAdapter

from ecif.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
RAW: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))
DEPLOYMENTS = {deployment["name"]: deployment for deployment in RAW["deployments"]}


def _flow(deployment: dict[str, Any]) -> Flow[..., Any]:
    file, _, name = deployment["entrypoint"].partition(":")
    return load_flow_from_entrypoint(f"{ROOT / file}:{name}")


def test_the_file_is_valid() -> None:
    model = PrefectYamlModel.model_validate(RAW)
    assert [deployment.name for deployment in model.deployments] == ["clean", "clean-on-arrival"]
    for step in RAW["pull"]:
        (name,) = step
        module, _, function = name.rpartition(".")
        inspect.signature(getattr(importlib.import_module(module), function)).bind(**step[name])


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_the_flow_takes_the_parameters(name: str) -> None:
    deployment = DEPLOYMENTS[name]
    flow = _flow(deployment)
    parameters = deployment["parameters"]
    validate(parameters, flow.parameters.model_dump(), raise_on_error=True)
    validated = flow.validate_parameters(parameters)
    assert validated["sources"] == parameters["sources"]
    assert validated["settings"]["out"] == parameters["settings"]["out"]
    assert Settings(**validated["settings"]).has_policy


@pytest.mark.parametrize(
    "wrong", [{"batch_sise": 3}, {"batch_size": 1}, {"drop": "2"}, {"storage_options": {"secret": "x"}}]
)
def test_the_flow_refuses_wrong_settings(wrong: dict[str, Any]) -> None:
    parameters = DEPLOYMENTS["clean"]["parameters"]
    with pytest.raises(Exception, match=next(iter(wrong)).replace("_", "[-_]")):
        _flow(DEPLOYMENTS["clean"]).validate_parameters({**parameters, "settings": {**parameters["settings"], **wrong}})


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_runs_go_to_a_process_pool_one_at_a_time(name: str) -> None:
    deployment = DEPLOYMENTS[name]
    assert deployment["work_pool"]["name"] == "ecif"
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}


def test_clean_runs_by_a_schedule() -> None:
    (schedule,) = DEPLOYMENTS["clean"]["schedules"]
    built = construct_schedule(cron=schedule["cron"], timezone=schedule["timezone"])
    assert built.model_dump()["cron"] == schedule["cron"]
    assert schedule["slug"]


def test_arrivals_are_triggered_by_an_event_that_carries_the_prefix() -> None:
    (raw,) = DEPLOYMENTS["clean-on-arrival"]["triggers"]
    trigger: Any = TypeAdapter(DeploymentTriggerTypes).validate_python(raw)
    assert isinstance(trigger, EventTrigger)
    assert trigger.expect == {"ecif.shards.arrived"}
    parameters: dict[str, Any] = raw["parameters"]
    flow = _flow(DEPLOYMENTS["clean-on-arrival"])
    assert set(parameters) <= set(flow.parameters.properties)
    (placeholder,) = find_placeholders(parameters["prefix"])
    assert placeholder.name == "event.payload.prefix"
    templated = {"__prefect_kind": "jinja", "template": parameters["prefix"]}
    event = {"event": {"payload": {"prefix": "s3://bucket/raw/new/"}}}
    rendered = hydrate({"prefix": templated}, HydrationContext(render_jinja=True, jinja_context=event))
    assert rendered == {"prefix": "s3://bucket/raw/new/"}
    given = DEPLOYMENTS["clean-on-arrival"]["parameters"] | rendered
    assert flow.validate_parameters(given)["prefix"] == "s3://bucket/raw/new/"
