"""A run: settings resolved against storage, once, before anything is computed."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import ecif
from ecif import inventory, keys
from ecif.errors import ModelError, UsageError
from ecif.finished import find_fit
from ecif.inventory import Inventory
from ecif.layout import Layout
from ecif.settings import ScoreSettings, recorded
from ecif.sources import Found, expand
from ecif.storage import Storage

# Columns that rest on another curvature than the run's own, and on which.
_OTHER_FITS = {"if_ekfac": "ekfac", "trak": "pointwise"}


@dataclass(frozen=True, slots=True)
class Run:
    """What `fit` and `score` work on.

    Attributes:
        validation: the tars of trusted pairs.
    """

    settings: ScoreSettings
    layout: Layout
    storage: Storage
    inventory: Inventory
    validation: tuple[Found, ...]
    fit_key: str
    score_key: str

    def other_fits(self) -> dict[str, Run]:
        """This run with the curvature that a wanted column rests on, by column; each is a fit of its own."""
        found = {}
        for column in self.settings.columns:
            curvature = _OTHER_FITS.get(column)
            if curvature is not None:
                changed = self.settings.model_copy(update={"curvature": curvature, "columns": (), "index": False})
                key = keys.digest({"beside": self.fit_key, "curvature": curvature})
                found[column] = replace(self, settings=changed, fit_key=key)
        return found


def open_run(sources: Sequence[str], settings: ScoreSettings, storage: Storage | None = None) -> Run:
    """Expand the sources, append new shards to the inventory of the output, and compute the keys.

    Args:
        storage: another way to the files than that of the settings.

    Raises:
        UsageError, InputError: a URL is refused, a file is missing, a setting is lacking.
        ModelError: no model, or no weights, were named.
    """
    storage = settings.storage() if storage is None else storage
    layout = Layout(storage.check(Layout(settings.out).root, write=True))
    if not settings.model or not settings.pretrained:
        raise ModelError("--model and --pretrained are needed: the influence of a pair is that on a trained model")
    if not settings.validation:
        raise UsageError("--validation is needed: tars of pairs that are right, on which 'better' is measured")
    validation = expand(settings.validation, storage).shards
    expansion = expand(sources, storage)
    fit_key = keys.fit_key(settings, _contents(settings, validation, storage))
    score_key = keys.score_key(fit_key, settings, [storage.fingerprint(url) for url in settings.checkpoints])
    taken = inventory.take(
        expansion, layout, storage, {"settings": recorded(settings), "versions": versions(), "fit_key": fit_key}
    )
    return Run(settings, layout, storage, taken, validation, fit_key, score_key)


def versions() -> dict[str, Any]:
    """Versions of what numbers depend on, saved beside every result; read without importing any of it."""
    packages = ("torch", "open_clip_torch", "torchvision", "pillow", "numpy", "polars")
    return {
        "ecif": ecif.__version__,
        "algorithm": ecif.ALGO_VERSION,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def _contents(settings: ScoreSettings, validation: Sequence[Found], storage: Storage) -> dict[str, str]:
    """Content identities of the files that the settings name; tags and names of open_clip stand for themselves."""
    contents = {f"validation/{number}": storage.fingerprint(found.url) for number, found in enumerate(validation)}
    for name, value in (("model", settings.model), ("pretrained", settings.pretrained)):
        is_file = value.endswith((".json", ".safetensors", ".pt", ".pth", ".bin"))
        contents[name] = storage.fingerprint(value) if is_file else value
    kind, _, path = settings.objective.partition(":")
    if settings.extend:
        layout, key = find_fit(settings.extend, storage)
        contents["extend"] = storage.fingerprint(layout.moments(key))
    contents["objective"] = f"{kind}:{storage.fingerprint(path)}" if path else kind
    return contents
