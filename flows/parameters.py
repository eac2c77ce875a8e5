"""The parameters of flows: typed, described for the form of Prefect's UI, and without anything secret.

Prefect stores parameters of runs in the clear and shows them to everybody who may read its API; and whoever may create
a run or emit an event chooses them. So settings are only what `ecif.settings.saved` would write beside results, URLs
hold neither passwords nor signatures, and a prefix is one of a place that could hold shards. What may be read and
written is bounded where the work is done, by the worker's own ECIF_ALLOW; `tasks.ambient` says how credentials travel.

The schema of the settings is that of `ecif.settings.Settings` with what is needed first: the form shows the fields in
its order, and the API refuses wrong ones when a run is created, before any worker has seen it. Of what is checked here
the API knows the schema only, and would store a secret before the flow refuses it; so the schema has a pattern, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema

from ecif.arrivals import as_prefix
from ecif.errors import UsageError
from ecif.fields import build
from ecif.policy.settings import PolicySettings
from ecif.settings import OrchestrationSettings, Settings, WriteSettings, saved
from ecif.storage.secrets import redact

PRIVATE = ("storage_options", "allow")
NEEDED = ("out", "model", "pretrained", "validation")
# What the API stores at all: a URL without a user (Azure names a container there) and without a signature in its query.
# In the part of the language that Python and browsers share; `redact` knows more forms of secrets, and all of these.
UNSIGNED = (
    r"^(?!(.*[^A-Za-z0-9+.\-])?(?!abfss?:|wasbs?:)[A-Za-z][A-Za-z0-9+.\-]*://[^/?#\s@'\"]+@)"
    r"(?!.*[?&](X-(Amz|Goog)-(Signature|Credential)|Signature|AWSAccessKeyId|GoogleAccessId|sig|token)=[^&\s'\"<>])"
)


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
    for name, value in values.items():
        for text in _texts(value):
            in_the_clear(text, name)
    try:
        return saved(build(Settings, {name: value for name, value in values.items() if name not in PRIVATE}))
    except UsageError as error:
        raise ValueError(str(error)) from error


def in_the_clear(text: str, name: str = "url") -> str:
    """The text, if it holds no secret.

    Raises:
        ValueError: it has the form of a URL with a password or a signature. It is not repeated.
    """
    if redact(text, {}) != text:
        raise ValueError(
            f"{name} holds a secret, and Prefect stores parameters in the clear: give URLs without passwords and "
            "signatures, and the credentials to the worker"
        )
    return text


def prefix(url: str) -> str:
    """The one spelling of a prefix that a parameter names.

    Raises:
        ValueError: it is not the URL of a place that could hold shards.
    """
    try:
        return as_prefix(in_the_clear(url, "prefix"))
    except UsageError as error:
        raise ValueError(str(error)) from error


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _schema() -> dict[str, Any]:
    """The settings as a form: what is needed, what is decided, what is written, then the rest; how it runs last."""
    schema = Settings.model_json_schema()
    fields = {name: field for name, field in schema["properties"].items() if name not in PRIVATE}
    titles = {name.replace("_", "-"): field["title"] for name, field in fields.items()}
    for field in fields.values():
        # The form has no options but fields, under their titles, and shows marks as they are.
        plain = field["description"].replace("`", "")
        field["description"] = re.sub(r"--([a-z-]+)", lambda found: titles[found[1]], plain)
        for text in (field, field.get("items", {})):
            if text.get("type") == "string" and "enum" not in text:
                text["pattern"] = UNSIGNED
    decided = [*PolicySettings.model_fields, *WriteSettings.model_fields]
    last = ["patience", "max_failed", *OrchestrationSettings.model_fields]
    middle = [name for name in fields if name not in {*NEEDED, *decided, *last}]
    schema["properties"] = {name: fields[name] for name in (*NEEDED, *decided, *middle, *last)}
    schema["required"] = list(NEEDED)
    return schema


PublicSettings = Annotated[dict[str, Any], AfterValidator(public), WithJsonSchema(_schema())]

# Descriptions of parameters stand in the docstrings of the flows: Prefect takes them from there.
_Unsigned = Field(json_schema_extra={"pattern": UNSIGNED})
Source = Annotated[str, AfterValidator(lambda url: in_the_clear(url, "sources")), _Unsigned]
Sources = Annotated[list[Source], Field(min_length=1, examples=[["s3://bucket/raw/"]])]
Prefix = Annotated[str, AfterValidator(prefix), _Unsigned, Field(examples=["s3://bucket/raw/2026-11-22/"])]
Out = Annotated[
    str,
    AfterValidator(lambda url: in_the_clear(url, "out")),
    _Unsigned,
    Field(min_length=1, examples=["s3://bucket/clean"]),
]
