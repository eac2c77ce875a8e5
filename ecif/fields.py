"""What every group of settings is made of, and pydantic's errors in the words of the command line."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ecif.errors import UsageError
from ecif.nearest import did_you_mean


class Group(BaseSettings):
    """Fields that belong together; also read from the environment as `ECIF_NAME`, and unknown ones are refused."""

    model_config = SettingsConfigDict(env_prefix="ECIF_", extra="forbid", validate_default=True)


G = TypeVar("G", bound=Group)


def build(group: type[G], values: dict[str, Any]) -> G:
    """Validate `values`, with an error a user can act on.

    Raises:
        UsageError: a field is missing, unknown or wrong; the message names it.
    """
    try:
        return group(**values)
    except ValidationError as error:
        raise UsageError(explain(error)) from error


def explain(error: ValidationError) -> str:
    """A pydantic error in the words of the command line."""
    lines = []
    for item in error.errors():
        name = "--" + str(item["loc"][0]).replace("_", "-") if item["loc"] else ""
        line = f"{name}: {item['msg'].removeprefix('Value error, ')}".removeprefix(": ")
        if item["type"] == "literal_error":
            choices = re.findall(r"'([^']*)'", item["ctx"]["expected"])
            line += f", not {item['input']!r}.{did_you_mean(item['input'], choices)}"
        lines.append(line)
    return "; ".join(lines)
