"""All settings as one typed object; the command line, a YAML file and the environment set the same fields.

`Settings` is the sum of small groups, so that each command takes the fields it uses and no flag silently does nothing.
Precedence: command line, environment (`ECIF_...`), `--config` file, defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, model_validator

from ecif import detectors
from ecif.errors import UsageError
from ecif.fields import G, Group, build
from ecif.nearest import did_you_mean
from ecif.policy.settings import PolicySettings
from ecif.settings.groups import (
    CanarySettings,
    DeviceSettings,
    FailureSettings,
    ModelSettings,
    OrchestrationSettings,
    SampleSettings,
    StorageSettings,
    WriteSettings,
)
from ecif.settings.method import MethodSettings

__all__ = [
    "CanarySettings",
    "DeviceSettings",
    "FailureSettings",
    "MethodSettings",
    "ModelSettings",
    "OrchestrationSettings",
    "SampleSettings",
    "ScoreSettings",
    "Settings",
    "StorageSettings",
    "WriteSettings",
    "merge",
    "recorded",
    "saved",
]


class ScoreSettings(
    StorageSettings, FailureSettings, SampleSettings, ModelSettings, DeviceSettings, MethodSettings, CanarySettings
):
    """What `fit` and `score` take."""

    out: str = Field("", description="where results go: a directory or an object-storage prefix")

    @model_validator(mode="after")
    def _difference(self) -> Self:
        if self.derivative == "difference" and self.precision == "tf32":
            raise ValueError("--derivative difference needs the digits that --precision tf32 rounds away: use fp32")
        return self

    @property
    def sketches_per_batch(self) -> int:
        """Sketches: nearly free behind the heads, a backward pass of the differentiated part each otherwise."""
        return self.sketches or (64 if self.trainable == "heads" else 16)


_ORCHESTRATION = frozenset(OrchestrationSettings.model_fields)


class Settings(ScoreSettings, PolicySettings, WriteSettings, OrchestrationSettings):
    """What `clean` takes: everything."""

    @model_validator(mode="after")
    def _deciding_column(self) -> Self:
        for name in sorted(self.columns_used & set(detectors.OPTIONAL) - set(self.columns)):
            given = f"--detector {name}" if name == self.detector else "an expression"
            raise ValueError(f"{given} decides by a column that is not computed: add --columns {name} too")
        return self

    @model_validator(mode="after")
    def _something_to_write(self) -> Self:
        if not self.has_policy and (self.repack is not None or self.write == "columns"):
            given = "--repack" if self.repack is not None else "--write columns"
            raise ValueError(f"{given} writes what a decision leaves: add a policy, --drop 0 to drop nothing")
        return self


def merge(given: G, config: Path | None) -> G:
    """Lay the fields that were set explicitly over those of a YAML file.

    Fields of the file that this group does not have are refused unless `Settings` has them: one file serves
    all commands of a run.

    Raises:
        UsageError: the file cannot be read, or a field is unknown or wrong.
    """
    if config is None:
        return given
    try:
        loaded = yaml.safe_load(config.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{config}: cannot be read as YAML settings: {error}") from error
    loaded = {} if loaded is None else loaded
    if not isinstance(loaded, dict):
        raise UsageError(f"{config}: settings are 'name: value' lines, not a {type(loaded).__name__}")
    values = {str(name).replace("-", "_"): value for name, value in loaded.items()}
    if unknown := sorted(set(values) - set(Settings.model_fields) - {"sources"}):
        hint = did_you_mean(unknown[0], Settings.model_fields)
        raise UsageError(f"{config}: unknown setting {', '.join(unknown)}.{hint}")
    fields = type(given).model_fields
    values = {name: value for name, value in values.items() if name in fields}
    explicit = {name: getattr(given, name) for name in given.model_fields_set}
    return build(type(given), values | explicit)


def saved(settings: Group) -> dict[str, Any]:
    """The settings as they are handed on: all but what may hold a secret."""
    return settings.model_dump(mode="json", exclude={"storage_options", "allow"})


def recorded(settings: Group) -> dict[str, Any]:
    """The settings as they are written beside results: those of `saved` on which results can depend.

    How long a storage is asked again, how many failures end a run, and who does the work change nothing: two runs that
    differ in them write the same files.
    """
    without = {"storage_options", "allow", "patience", "max_failed", *_ORCHESTRATION}
    return settings.model_dump(mode="json", exclude=without)
