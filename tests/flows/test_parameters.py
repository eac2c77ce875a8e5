"""What may be a parameter of a flow, and what the form of Prefect's UI is made of."""

from __future__ import annotations

import re
from typing import Any

import pytest
from prefect.utilities.schema_tools.validation import is_valid
from pydantic import TypeAdapter, ValidationError

from ecif.settings import Settings
from ecif.storage.secrets import redact
from flows.clean import clean
from flows.fit import fit
from flows.maintenance import maintenance
from flows.parameters import NEEDED, PRIVATE, Prefix, PublicSettings, Sources, public
from flows.watch import watch

SETTINGS: dict[str, Any] = {
    "out": "s3://bucket/clean",
    "model": "ViT-B-32",
    "pretrained": "openai",
    "validation": ["s3://bucket/validation.tar"],
}
SIGNED = "https://host/a.tar?X-Amz-Signature=0123456789abcdef"
WITH_PASSWORD = "https://user:hunter2hunter2@host/a.tar"
# Forms that the server can tell by the schema alone.
SECRETS = (
    SIGNED,
    WITH_PASSWORD,
    "https://user@host/a.tar",
    f"/data/a.tar::{WITH_PASSWORD}",
    "https://account.blob.core.windows.net/a.tar?sv=2024&sig=abcdefgh",
    "https://host/a.tar?Expires=1&Signature=abcdefgh",
)
CLEAR = (
    "",
    "/data/{00000..00009}.tar",
    "/data/a@b.tar",
    "s3://bucket/raw/",
    "s3://bucket/a@b/?versionId=1",
    "s3://a/::s3://b/",
    "http://host:9000/a.tar",
    "abfss://container@account.dfs.core.windows.net/raw/",
    "s3://a/::abfss://container@account.dfs.core.windows.net/raw/",
)


def test_settings_are_completed_and_stay_as_they_are() -> None:
    values = public(SETTINGS)
    assert set(values) == set(Settings.model_fields) - set(PRIVATE)
    assert public(values) == values
    assert values["batch_size"] == Settings.model_fields["batch_size"].default


@pytest.mark.parametrize("private", PRIVATE)
def test_what_is_private_is_refused(private: str) -> None:
    value = {"secret": "hunter2"} if private == "storage_options" else ["s3://bucket"]
    with pytest.raises(ValueError, match=f"ECIF_{private.upper()}"):
        public({**SETTINGS, private: value})


@pytest.mark.parametrize("secret", [SIGNED, WITH_PASSWORD])
@pytest.mark.parametrize("setting", ["out", "validation", "pretrained", "denylist"])
def test_a_secret_in_a_setting_is_refused_and_not_repeated(setting: str, secret: str) -> None:
    value = [secret] if setting == "validation" else secret
    with pytest.raises(ValueError, match=setting) as caught:
        public({**SETTINGS, setting: value})
    assert "0123456789abcdef" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", [*SECRETS, *CLEAR])
@pytest.mark.parametrize("setting", ["out", "pretrained", "validation", "checkpoints", "sources", "prefix"])
def test_the_server_stores_no_secret_and_refuses_nothing_else(setting: str, url: str) -> None:
    many = setting in ("validation", "checkpoints", "sources")
    given = {setting: [url] if many else url}
    parameters: dict[str, Any] = {"sources": ["s3://bucket/raw/"], "settings": SETTINGS}
    if setting in Settings.model_fields:
        parameters["settings"] = {**SETTINGS, **given}
    else:
        parameters |= given
    assert is_valid(parameters, clean.parameters.model_dump()) == (url in CLEAR)
    assert (redact(url, {}) == url) == (url in CLEAR)


@pytest.mark.parametrize("url", SECRETS)
def test_outputs_to_sweep_hold_no_secret_either(url: str) -> None:
    schema = maintenance.parameters.model_dump()
    assert is_valid({"outs": ["s3://bucket/clean"]}, schema)
    assert not is_valid({"outs": [url]}, schema)


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(ValueError, match="--batch-size"):
        public({**SETTINGS, "batch_size": 1})


@pytest.mark.parametrize("sources", [[], [SIGNED], [WITH_PASSWORD], "s3://bucket/raw/"])
def test_sources_that_are_none(sources: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Sources).validate_python(sources)


def test_sources() -> None:
    given = ["s3://bucket/raw/", "/data/{00000..00009}.tar", "s3://a/::s3://b/"]
    assert TypeAdapter(Sources).validate_python(given) == given


@pytest.mark.parametrize(
    "event", ["", "pipe:cat /etc/passwd", "a::b", "ftp://host/x", SIGNED, WITH_PASSWORD, "s3://b/../../x", None, 7]
)
def test_a_prefix_that_an_event_must_not_name(event: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Prefix).validate_python(event)


def test_a_prefix_has_one_spelling() -> None:
    for spelling in ("s3://bucket/raw/new", "s3://bucket/raw/new/", "s3://bucket/raw/./old/../new/00000.tar"):
        assert TypeAdapter(Prefix).validate_python(spelling) == "s3://bucket/raw/new/"


def test_the_form_begins_with_what_is_needed_and_explains_every_field() -> None:
    schema = TypeAdapter(PublicSettings).json_schema()
    assert list(schema["properties"])[: len(NEEDED)] == list(NEEDED) == schema["required"]
    assert set(schema["properties"]) == set(Settings.model_fields) - set(PRIVATE)
    for name, setting in schema["properties"].items():
        assert setting["description"], name
        assert setting["title"], name
        assert not re.search("--|`", setting["description"]), f"{name}: a form has no options and shows marks"
        assert "default" in setting, name
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("one", [clean, fit, watch, maintenance], ids=lambda one: one.name)
def test_every_parameter_is_explained(one: Any) -> None:
    for name, parameter in one.parameters.properties.items():
        assert parameter.get("description"), f"{one.name}: {name}"
        assert "`" not in parameter["description"], f"{one.name}: {name}: the form shows the marks"
