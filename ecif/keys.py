"""Keys of results: a result is found again exactly when everything that determines it is the same.

A key is 12 hexadecimal digits of a sha256 over canonical JSON. What only changes speed (micro-batch, device,
threads, grouping of shards) is not part of it; what changes numbers is, with the version of the algorithm.
The list of shards is not part of it either: shards that arrive later are scored with the direction, and cut
with the decision, that exist.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ecif import ALGO_VERSION, canaries
from ecif.policy.settings import PolicySettings
from ecif.settings import MethodSettings, ModelSettings, SampleSettings, ScoreSettings

# How scores are averaged, not how the direction was made.
_SCORE_ONLY = ("segmentations", "negative_role", "derivative", "columns", "column_probes", "index")
# Settings that were not in the first version, with the value that stands for what it did: left out of keys then, so
# that earlier outputs are found again.
_LATER = {"decode": "full", "derivative": "exact", "validation_segmentations": 1}
# Settings of a policy that were not in the first version.
_POLICY_LATER = ("rank_by", "keep", "keep_count", "where", "by", "control", "overrides", "dedup", "target_precision")
# Named files: their bytes count, not their paths.
_FILES = ("model", "pretrained", "validation", "objective", "extend", "checkpoints")


def digest(value: Mapping[str, Any]) -> str:
    """12 hexadecimal digits that stand for a JSON-like value."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def fit_key(settings: ScoreSettings, contents: Mapping[str, str]) -> str:
    """Key of factor and direction.

    Args:
        contents: content identities of the files that the settings name (model config, weights, validation,
            prompts): their paths do not matter, their bytes do.
    """
    numbers = _fields(settings, SampleSettings, ModelSettings, MethodSettings)
    if settings.objective != "contrastive":
        numbers["validation_segmentations"] = 1  # a loss that does not depend on batches
    chosen = {
        name: value
        for name, value in numbers.items()
        if name not in (*_FILES, *_SCORE_ONLY) and (name not in _LATER or value != _LATER[name])
    }
    return digest({"version": ALGO_VERSION, "contents": dict(contents), **chosen})


def score_key(fit_key: str, settings: ScoreSettings, checkpoints: Sequence[str] = ()) -> str:
    """Key of the scores made along one direction.

    Args:
        checkpoints: content identities of the weights that some columns compare.
    """
    numbers = {name: getattr(settings, name) for name in _SCORE_ONLY}
    chosen = {name: value for name, value in numbers.items() if name not in _LATER or value != _LATER[name]}
    return digest({"fit": fit_key, "checkpoints": list(checkpoints), **chosen})


def canary_key(score_key: str, share: float) -> str:
    """Key of the wrong captions that are planted in the same pass, and of their scores; the scores do not depend on it.

    Args:
        share: of the pairs, as in `CanarySettings`.
    """
    return digest({"version": canaries.VERSION, "scores": score_key, "share": share})


def decision_key(score_key: str, policy: PolicySettings, lists: Mapping[str, str]) -> str:
    """Key of a cut through those scores.

    Args:
        lists: digests of the frozen lists, by name: their paths do not matter.
    """
    chosen = _fields(policy, PolicySettings)
    # What was not always there is left out where it is not used, so that keys of earlier outputs are found again.
    for name in _POLICY_LATER:
        if not (value := chosen.pop(name)) and value != 0:
            continue
        if name != "overrides":
            chosen[name] = value
    return digest({"version": ALGO_VERSION, "scores": score_key, **chosen, **lists})


def _fields(settings: Any, *groups: type[Any]) -> dict[str, Any]:
    names = {name for group in groups for name in group.model_fields}
    return {name: value for name, value in settings.model_dump(mode="json").items() if name in names}
