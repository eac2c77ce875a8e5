"""The settings as a parameter of flows: validated, complete, and without anything secret.

Prefect stores parameters of runs in the clear and shows them to everybody who may read its API. So the parameter
takes only what `ecif.settings.saved` would write beside results; `tasks.ambient` says how credentials travel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from ecif.errors import UsageError
from ecif.settings import Settings, build, saved

PRIVATE = ("storage_options", "allow")


def public(values: Mapping[str, Any]) -> dict[str, Any]:
    """All settings but the private ones, with the values that hold when `values` are given.

    Raises:
        ValueError: a setting is wrong, unknown, or must not be a parameter.
    """
    if given := [name for name in PRIVATE if values.get(name)]:
        raise ValueError(
            f"{' and '.join(given)} cannot be parameters, which Prefect stores in the clear; set "
            f"{' and '.join('ECIF_' + name.upper() for name in given)} or the storage's own variables for the worker"
        )
    try:
        return saved(build(Settings, {name: value for name, value in values.items() if name not in PRIVATE}))
    except UsageError as error:
        raise ValueError(str(error)) from error


def _schema() -> dict[str, Any]:
    schema = Settings.model_json_schema()
    schema["properties"] = {name: field for name, field in schema["properties"].items() if name not in PRIVATE}
    return schema


# The schema gives a form in Prefect's UI and lets its API refuse wrong parameters when a run is created.
PublicSettings = Annotated[dict[str, Any], AfterValidator(public), WithJsonSchema(_schema())]
