"""Turn scores and a policy into a decision: a small frozen file that says what every later stage drops.

The decision is made once, from all shards of the inventory, and then holds: asking again for the same scores and
policy returns the same file, also when shards have arrived since, so that a corpus that grows is cut at one place.
The price is that the fraction actually dropped drifts with the arrivals; the report says by how much.

An output holds one decision in one form (cleaned shards, repacked shards, or columns). The file that says so is
written before the first shard, and what it names is the content of the decision, not only its key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ecif import detectors, inventory, lists, selection
from ecif.agreement import canonical, settle
from ecif.calibration.learned import Model
from ecif.errors import ConflictError, InputError, MissingFileError, UsageError
from ecif.layout import Layout
from ecif.policy import duplicates, overrides
from ecif.policy.decision import Decision
from ecif.policy.rule import Rule
from ecif.policy.settings import PolicySettings
from ecif.policy.tables import Tables, beside_of
from ecif.progress import Progress, Silent
from ecif.settings import WriteSettings
from ecif.stages import deciding, outcome
from ecif.stages.scored import below, only, only_score_key, score_meta, scored_shards
from ecif.storage import Storage


@dataclass(frozen=True, slots=True)
class Applied:
    """What an output holds.

    Attributes:
        decision: its key. decision_sha256: of its file.
        write: `shards` or `columns`. repack: samples per new shard; None: one to one.
    """

    decision: str
    decision_sha256: str
    write: str
    repack: int | None


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
        UsageError: no policy; no or several sets of scores; other shards of the inventory without scores; a policy that
            needs canaries, where there are too few.
        InputError: scores or an existing decision cannot be read.
    """
    if not policy.has_policy:
        raise UsageError(selection.NEEDED)
    score_key = score_key or only_score_key(layout, storage)
    frozen = freeze_lists(policy, storage)
    if (standing := _standing(layout, storage, decision_keys(score_key, policy, frozen))) is not None:
        return standing
    shards = inventory.load(layout, storage).shards
    scored = scored_shards(layout, storage, score_key)
    if missing := [shard.name for shard in shards if shard.name not in scored and shard.name not in set_aside]:
        raise UsageError(
            f"{len(missing):,} of {len(shards):,} shards have no scores {score_key} yet, the first is {missing[0]}; "
            "run score again, it does only what is missing"
        )
    scores = {shard.name: layout.scores(score_key, shard.name) for shard in shards if shard.name in scored}
    meta = score_meta(layout, storage, score_key)
    _refuse_missing_columns(policy, meta["settings"].get("columns", ()))
    policy, calibration = deciding.chosen(policy, layout, storage, score_key, meta["settings"], progress)
    key = decision_keys(score_key, policy, frozen)[0]
    learned = calibration is not None and policy.detector == detectors.LEARNED and not policy.rank_by
    model = calibration.model if calibration is not None and learned else None
    threshold = None
    if policy.target_precision is not None and calibration is not None:
        threshold = deciding.cut_for(calibration, policy.detector, float(policy.target_precision))
    progress.stage("plan", 0, "shards")
    try:
        beside = beside_of(shards)
        cut = selection.make_cut(
            storage,
            scores,
            policy,
            key=key,
            score_key=score_key,
            fit_key=meta["fit_key"],
            beside=beside,
            model=model,
            threshold=threshold,
        )
        same = _duplicates(storage, scores, policy, beside, model)
        progress.advance(len(scores))
    finally:
        progress.end()
    for name, data in frozen.items():
        storage.publish(layout.list_of(key, lists.FILES[name]), data)
    digests: dict[str, Any] = {name: lists.digest(data) for name, data in frozen.items()}
    if same is not None:
        digests["duplicates"] = lists.digest(same)
        storage.publish(layout.duplicates(key, digests["duplicates"]), same)
    decision = replace(cut.decision, **digests, calibration="" if calibration is None else calibration.key)
    # Another writer, who saw another inventory, may have been first: what is frozen holds.
    stands = settle(layout.decision(key), canonical(decision.to_json()), storage)
    if stands != canonical(decision.to_json()):
        return load_decision(layout, storage, key)
    if not digests:
        chosen = [shard for shard in shards if shard.name in scores]
        outcome.save(layout, storage, outcome.count_cut(layout, storage, replace(cut, decision=decision), chosen))
    return decision


def freeze_lists(policy: PolicySettings, storage: Storage) -> dict[str, bytes]:
    """The lists of a policy in their normal form, by the names of `lists.FILES`; only those that were given.

    Raises:
        InputError: a file is not a list. MissingFileError: it does not exist.
    """
    given = {name: getattr(policy, name) for name in ("denylist", "allowlist")}
    frozen = {name: lists.freeze(storage.read_bytes(url), url) for name, url in given.items() if url}
    if policy.overrides:
        reviewed = overrides.read(storage.read_bytes(policy.overrides), policy.overrides)
        frozen |= {f"override_{action}": data for action, data in reviewed.items()}
    return frozen


def _duplicates(
    storage: Storage,
    scores: Mapping[str, str],
    policy: PolicySettings,
    beside: Mapping[str, str],
    model: Model | None,
) -> bytes | None:
    """The frozen pairs that have a better equal; None where that was not asked for."""
    if not policy.dedup:
        return None
    worse = detectors.facts(policy.detector).higher_is_worse and not policy.rank_by
    rule = Rule(policy.detector, worse, policy.rank_by, model=model)
    return duplicates.find(Tables(storage, scores, beside), rule, policy.dedup)


def _refuse_missing_columns(policy: PolicySettings, computed: Collection[str]) -> None:
    """Refuse score columns that are computed on demand and were not."""
    for column in sorted(policy.columns_used & set(detectors.OPTIONAL) - set(computed)):
        option = "--detector" if column == policy.detector else "--where or --rank-by"
        problem = f"{option} {column}: these scores have no such column; score again with --columns {column}"
        raise UsageError(problem)


def decision_keys(score_key: str, policy: PolicySettings, frozen: Mapping[str, bytes]) -> tuple[str, ...]:
    """The keys that the decision of a policy can have, the better detector first; `frozen` is of `freeze_lists`."""
    return deciding.decision_keys(score_key, policy, {name: lists.digest(data) for name, data in frozen.items()})


def _standing(layout: Layout, storage: Storage, keys: Sequence[str]) -> Decision | None:
    """The decision that has been made: the one that the output is bound to, if it is of these, else the first."""
    made = [key for key in keys if storage.exists(layout.decision(key))]
    if not made:
        return None
    held = applied(layout, storage)
    return load_decision(layout, storage, held.decision if held is not None and held.decision in made else made[0])


def load_decision(layout: Layout, storage: Storage, key: str | None = None) -> Decision:
    """Read a decision.

    Args:
        key: which one; left out: the one that was applied, else the only one there is.

    Raises:
        UsageError: there is no such decision, or several and no key.
        InputError: the file is not a decision.
    """
    held = applied(layout, storage)
    if key is None and held is not None:
        key = held.decision
    if key is None:
        found = [name for name in below(layout.decisions(), ".json", storage) if "/" not in name]
        key = only(found, "decision", "plan", layout)
    url = layout.decision(key)
    if not storage.exists(url):
        raise UsageError(f"{layout.root} holds no decision {key}; run plan first")
    decision = Decision.from_json(storage.read_json(url), url)
    digest = hashlib.sha256(canonical(decision.to_json())).hexdigest()
    if decision.key != key or (held is not None and held.decision == key and held.decision_sha256 != digest):
        raise InputError(f"this file holds the decision {decision.key}; it was renamed or edited", url=url)
    return decision


def mark_applied(layout: Layout, storage: Storage, decision: Decision, form: WriteSettings) -> None:
    """Bind the output to one decision and one form, before its first shard is written.

    Raises:
        ConflictError: the output is bound to another decision or form.
    """
    text = canonical(decision.to_json())
    mine = Applied(decision.key, hashlib.sha256(text).hexdigest(), form.write, form.repack)
    url = layout.applied()
    if settle(url, canonical(asdict(mine)), storage) == canonical(asdict(mine)):
        return
    held = applied(layout, storage)
    assert held is not None
    if (held.decision, held.decision_sha256) != (mine.decision, mine.decision_sha256):
        problem = f"this output holds the decision {held.decision}, not {decision.key}; one output holds one decision"
    else:
        problem = f"this output is written as {_form(held)}, not as {_form(mine)}"
    raise ConflictError(f"{problem}: choose a new --out", url=url)


def applied(layout: Layout, storage: Storage) -> Applied | None:
    """What the output is bound to; None when nothing has been applied.

    Raises:
        InputError: the file does not say it.
    """
    url = layout.applied()
    try:
        value = storage.read_json(url)
    except MissingFileError:
        return None
    try:
        found = Applied(**value)
        if [type(part) for part in (found.decision, found.decision_sha256, found.write)] != [str] * 3:
            raise TypeError
    except TypeError as error:
        raise InputError("does not name the decision of this output; choose a new --out", url=url) from error
    return found


def _form(held: Applied) -> str:
    if held.write == "columns":
        return "columns beside untouched shards"
    return "shards one to one" if held.repack is None else f"shards of {held.repack} samples (--repack)"
