"""Which scores an output holds, and with what settings they were made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ecif.errors import InputError, UsageError
from ecif.fields import build
from ecif.layout import Layout
from ecif.settings import SampleSettings
from ecif.shards.tar import Limits
from ecif.storage import Storage


def limits(layout: Layout, storage: Storage, score_key: str) -> Limits:
    """What members and samples may be by the settings with which these scores were made."""
    given = score_meta(layout, storage, score_key).get("settings")
    known = given if isinstance(given, dict) else {}
    return build(SampleSettings, {name: known[name] for name in SampleSettings.model_fields if name in known}).limits()


def only_score_key(layout: Layout, storage: Storage) -> str:
    """The key of the scores, when there is one set of them.

    Raises:
        UsageError: there is none, or there are several.
    """
    found = [name for name in below(layout.score_keys(), "/_meta.json", storage) if "/" not in name]
    return only(found, "scores", "score", layout)


def scored_shards(layout: Layout, storage: Storage, score_key: str) -> set[str]:
    """Names of the shards that have a score table: one listing."""
    return set(below(layout.scores_of(score_key), ".parquet", storage))


def score_meta(layout: Layout, storage: Storage, score_key: str) -> dict[str, Any]:
    """What is written beside the scores: settings, fit key, versions.

    Raises:
        UsageError: the output has no scores of this key.
        InputError: the file is broken.
    """
    url = layout.score_meta(score_key)
    if not storage.exists(url):
        raise UsageError(f"{layout.root} holds no scores {score_key}; run score first")
    meta = storage.read_json(url)
    if not isinstance(meta, dict) or not isinstance(meta.get("fit_key"), str):
        raise InputError("does not name the fit of these scores; score into a new --out", url=url)
    return meta


def below(prefix: str, suffix: str, storage: Storage) -> list[str]:
    """Relative paths, without the suffix, of the files below a directory."""
    folder = storage.check(prefix) + "/"
    return [info.url.removeprefix(folder).removesuffix(suffix) for info in storage.list(folder, suffix)]


def only(names: Sequence[str], what: str, command: str, layout: Layout) -> str:
    """The one of the names there is.

    Args:
        what: they are names of, in the plural also an option. command: makes one.

    Raises:
        UsageError: there is none, or there are several.
    """
    if not names:
        raise UsageError(f"{layout.root} holds no {what} yet; run {command} first")
    if len(names) > 1:
        listed = ", ".join(sorted(names))
        raise UsageError(f"{layout.root} holds several: {listed}; name one with --{what}")
    return names[0]
