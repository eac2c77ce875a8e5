"""From keyword arguments to the options of a command: what the Python API has in common.

A command is a function of sources or an output, of options of its own, and of a group of settings; keywords are sorted
into these by name. Values may be what Python has for them: a `Path` for text, one text where several may be given.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ecif.cli.answer import Answer
from ecif.cli.options import Usual
from ecif.errors import UsageError
from ecif.fields import build
from ecif.nearest import did_you_mean
from ecif.settings import StorageSettings

Url = str | Path


def call(command: Callable[..., Answer], positional: tuple[Url, ...], keywords: Mapping[str, Any]) -> Answer:
    """The answer of a command.

    Raises:
        EcifError: a keyword is unknown, or the command refuses.
    """
    chosen, own = split(command, keywords)
    group = _group(command)
    return command(*map(str, positional), **own, settings=build(group, chosen), usual=usual_of(keywords))


def split(command: Callable[..., Answer], keywords: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keywords that are settings, and those that are the command's own options."""
    group = _group(command)
    parameters = inspect.signature(command).parameters
    own = {
        name
        for name, parameter in parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in ("settings", "usual")
    }
    refuse_unknown(keywords, {*own, *group.model_fields, "config"})
    chosen = plain(group, {name: value for name, value in keywords.items() if name in group.model_fields})
    hints = get_type_hints(command)
    mine = {name: _as_given(hints[name], value) for name, value in keywords.items() if name in own}
    return chosen, mine


def _group(command: Callable[..., Answer]) -> type[StorageSettings]:
    """The settings that a command takes."""
    group: type[StorageSettings] = get_args(get_type_hints(command)["settings"])[0]
    return group


def refuse_unknown(keywords: Mapping[str, Any], known: set[str]) -> None:
    """Raises UsageError for a keyword that is none of `known`, with the nearest that is."""
    for name in keywords:
        if name not in known:
            raise UsageError(f"there is no setting {name!r} here.{did_you_mean(name, known)}")


def plain(group: type[StorageSettings], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as the fields take them: a path as text, one text where several may be given."""
    return {name: _as_given(group.model_fields[name].annotation, value) for name, value in values.items()}


def _as_given(hint: Any, value: Any) -> Any:
    several = hint == tuple[str, ...]
    if isinstance(value, (str, Path)):
        return (str(value),) if several else value if hint in (Path, Path | None) else str(value)
    return tuple(map(str, value)) if several else value


def usual_of(keywords: Mapping[str, Any]) -> Usual:
    """The options that every command has."""
    config = keywords.get("config")
    return Usual(config=None if config is None else Path(config))
