"""Turn scores and a policy into a decision: a small frozen file that says what every later stage drops.

The decision is made once, from all shards of the inventory, and then holds: asking again for the same scores and
policy returns the same file, also when shards have arrived since, so that a corpus that grows is cut at one place.
The price is that the fraction actually dropped drifts with the arrivals; the report says by how much.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ecif import detectors, inventory, keys, selection
from ecif.errors import ConflictError, InputError, UsageError
from ecif.layout import Layout
from ecif.progress import Progress, Silent
from ecif.selection import Decision
from ecif.settings import PolicySettings
from ecif.storage import Storage


def plan(
    layout: Layout,
    storage: Storage,
    policy: PolicySettings,
    score_key: str | None = None,
    progress: Progress = Silent(),
    *,
    set_aside: Collection[str] = (),
) -> Decision:
    """Make the decision for a policy, or return it when it has been made.

    Args:
        score_key: which scores to decide by; may be left out when the output holds one set of scores.
        set_aside: names of shards that may lack scores because they cannot be scored; the decision is made without
            them.

    Raises:
        UsageError: no policy; no or several sets of scores; other shards of the inventory without scores.
        InputError: scores or an existing decision cannot be read.
    """
    if not policy.has_policy:
        raise UsageError("a decision needs a policy: give --drop, --drop-count or --threshold")
    score_key = score_key or only_score_key(layout, storage)
    key = keys.decision_key(score_key, policy)
    url = layout.decision(key)
    if storage.exists(url):
        return load_decision(layout, storage, key)
    names = [shard.name for shard in inventory.load(layout, storage).shards]
    scored = scored_shards(layout, storage, score_key)
    if missing := [name for name in names if name not in scored and name not in set_aside]:
        raise UsageError(
            f"{len(missing):,} of {len(names):,} shards have no scores {score_key} yet, the first is {missing[0]}; "
            "run score again, it does only what is missing"
        )
    scores = {name: layout.scores(score_key, name) for name in names if name in scored}
    meta = score_meta(layout, storage, score_key)
    if policy.detector in detectors.OPTIONAL and policy.detector not in meta["settings"].get("columns", ()):
        raise UsageError(
            f"--detector {policy.detector}: these scores have no such column; score again with --columns "
            f"{policy.detector}"
        )
    progress.stage("plan", 0, "shards")
    try:
        decision = selection.choose(storage, scores, policy, key=key, score_key=score_key, fit_key=meta["fit_key"])
        progress.advance(len(scores))
    finally:
        progress.end()
    try:
        storage.publish_json(url, decision.to_json())
    except ConflictError:
        # Another writer, who saw another inventory, was first: what is frozen holds.
        return load_decision(layout, storage, key)
    return decision


def load_decision(layout: Layout, storage: Storage, key: str | None = None) -> Decision:
    """Read a decision.

    Args:
        key: which one; left out: the one that was applied, else the only one there is.

    Raises:
        UsageError: there is no such decision, or several and no key.
        InputError: the file is not a decision.
    """
    if key is None and storage.exists(layout.applied()):
        key = _applied(layout, storage)
    if key is None:
        found = [name for name in _below(layout.decisions(), ".json", storage) if "/" not in name]
        key = _only(found, "decision", "plan", layout)
    url = layout.decision(key)
    if not storage.exists(url):
        raise UsageError(f"{layout.root} holds no decision {key}; run plan first")
    decision = Decision.from_json(storage.read_json(url), url)
    if decision.key != key:
        raise InputError(f"this file holds the decision {decision.key}; it was renamed or edited", url=url)
    return decision


def mark_applied(layout: Layout, storage: Storage, decision: Decision) -> None:
    """Bind the output to one decision, before its first shard is written.

    Raises:
        ConflictError: the output is bound to another decision.
    """
    url = layout.applied()
    try:
        storage.publish_json(url, {"decision": decision.key})
    except ConflictError as error:
        raise ConflictError(
            f"this output holds the decision {_applied(layout, storage)}, not {decision.key}; one output holds one "
            "decision: choose a new --out",
            url=url,
        ) from error


def only_score_key(layout: Layout, storage: Storage) -> str:
    """The key of the scores, when there is one set of them.

    Raises:
        UsageError: there is none, or there are several.
    """
    found = [name for name in _below(layout.score_keys(), "/_meta.json", storage) if "/" not in name]
    return _only(found, "scores", "score", layout)


def scored_shards(layout: Layout, storage: Storage, score_key: str) -> set[str]:
    """Names of the shards that have a score table: one listing."""
    return set(_below(layout.scores_of(score_key), ".parquet", storage))


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


def _applied(layout: Layout, storage: Storage) -> str:
    value = storage.read_json(layout.applied())
    if not isinstance(value, dict) or not isinstance(value.get("decision"), str):
        raise InputError("does not name the decision of this output; choose a new --out", url=layout.applied())
    key: str = value["decision"]
    return key


def _below(prefix: str, suffix: str, storage: Storage) -> list[str]:
    """Relative paths, without the suffix, of the files below a directory."""
    folder = storage.check(prefix) + "/"
    return [info.url.removeprefix(folder).removesuffix(suffix) for info in storage.list(folder, suffix)]


def _only(names: Sequence[str], what: str, command: str, layout: Layout) -> str:
    if not names:
        raise UsageError(f"{layout.root} holds no {what} yet; run {command} first")
    if len(names) > 1:
        listed = ", ".join(sorted(names))
        raise UsageError(f"{layout.root} holds several: {listed}; name one with --{what}")
    return names[0]
