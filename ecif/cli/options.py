"""Groups of options that several commands take, and how they become settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import yaml
from cyclopts import Parameter

from ecif.errors import UsageError
from ecif.fields import build
from ecif.layout import Layout
from ecif.policy.settings import PolicySettings
from ecif.settings import FailureSettings, StorageSettings, WriteSettings, merge

if TYPE_CHECKING:
    from ecif.storage import Storage

G = TypeVar("G", bound=StorageSettings)

DryRun = Annotated[
    bool, Parameter(help="say what would be read, computed and written, with counts and bytes, and do nothing of it")
]


class PlanSettings(StorageSettings, PolicySettings):
    """What `plan` takes."""


class ApplySettings(StorageSettings, FailureSettings, WriteSettings):
    """What `apply` takes."""


@dataclass(frozen=True, slots=True)
class Usual:
    """Options of every command."""

    config: Annotated[Path | None, Parameter(help="a YAML file of settings, one 'name: value' per line")] = None
    json: Annotated[bool, Parameter(help="print one JSON document on stdout")] = False


def settings_of(group: type[G], given: G | None, usual: Usual | None) -> G:
    """What was given on the command line or in the environment, over the file of `--config`.

    Raises:
        UsageError: a setting is unknown or wrong.
    """
    return merge(build(group, {}) if given is None else given, usual.config if usual else None)


def sources_of(given: tuple[str, ...], usual: Usual | None) -> list[str]:
    """The sources of the command line, else the `sources` of the configuration file.

    Raises:
        UsageError: there are none.
    """
    if given:
        return list(given)
    value: Any = None
    if usual and usual.config:
        value = (yaml.safe_load(usual.config.read_text("utf-8")) or {}).get("sources")
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed or not all(isinstance(source, str) for source in listed):
        raise UsageError("no sources: name tars, a brace range, a glob, a directory or a list of URLs")
    return listed


def place(out: str, settings: StorageSettings) -> tuple[Layout, Storage]:
    """Layout and storage of an existing output."""
    storage = settings.storage()
    return Layout(storage.check(Layout(out).root)), storage


def wants_json(usual: Usual | None) -> bool:
    """Whether `--json` was given."""
    return usual is not None and usual.json
