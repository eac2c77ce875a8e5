"""The proof for a shard whose scores were published beside it, its tar left where and as it is.

The table is made once more from the input's, the scores and the decision, and held against what stands. Of the tar it
is seen that its samples are those of the scores; there is no other tar to compare it with.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

from ecif.interop.columns import Expected, expected
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.manifest import FileMark, Manifest
from ecif.selection import Decision
from ecif.shards import sidecars
from ecif.shards.decode import OK
from ecif.shards.samples import track
from ecif.shards.tar import Limits, scan
from ecif.stages.parting import ANY
from ecif.stages.proof_manifest import check_manifest
from ecif.stages.scored import score_meta
from ecif.stages.violations import ShardCheck, Violation, noting
from ecif.storage import Storage
from ecif.verdicts import DROP, KEEP, QUARANTINE


def verify_columns(
    shard: Shard,
    layout: Layout,
    storage: Storage,
    manifest: Manifest,
    decision: Decision | None,
    limits: Limits = Limits(),
) -> ShardCheck:
    """Check one shard; problems of its files are violations, not exceptions.

    Args:
        decision: None when the output holds scores only. limits: what a list may look into.
    """
    violations: list[Violation] = []
    due = {"parquet", "scores"} | ({"ledger"} if manifest.decision_key else set())
    check_manifest(shard, manifest, decision, due, layout, storage, violations)
    if decision is None and not manifest.decision_key:
        with noting(shard.name, "scores", violations):
            if score_meta(layout, storage, manifest.score_key)["fit_key"] != manifest.fit_key:
                detail = f"{layout.manifest(shard.name)}: names another fit than its scores"
                violations.append(Violation(shard.name, "scores", detail))
    actions = {KEEP: 0, DROP: 0, QUARANTINE: 0}
    if not _same_scores(shard, manifest, layout, storage, violations):
        return ShardCheck(shard.name, violations=tuple(violations))
    with noting(shard.name, "sidecars", violations):
        made = expected(shard, decision, manifest.score_key, layout, storage, limits)
        actions = made.actions
        problems = itertools.chain(_counts(made, manifest), _files(shard, made, manifest, layout, storage))
        violations += [Violation(shard.name, what, detail) for what, detail in problems]
    with noting(shard.name, "tar", violations):
        violations += [Violation(shard.name, "scores", detail) for detail in _keys(shard, manifest, layout, storage)]
    counts = (sum(actions.values()), actions[KEEP], actions[DROP], actions[QUARANTINE])
    return ShardCheck(shard.name, *counts, tuple(violations))


def _same_scores(
    shard: Shard, manifest: Manifest, layout: Layout, storage: Storage, violations: list[Violation]
) -> bool:
    """Whether the score table is that of the manifest; another one is not looked into."""
    before, mark = len(violations), manifest.files.get("scores")
    with noting(shard.name, "scores", violations):
        if mark is not None:
            storage.read_marked(layout.scores(manifest.score_key, shard.name), mark.size, mark.sha256)
    return mark is not None and len(violations) == before


def _counts(made: Expected, manifest: Manifest) -> Iterator[tuple[str, str]]:
    found = (made.actions[KEEP], made.actions[DROP], made.actions[QUARANTINE])
    if found != (manifest.kept, manifest.dropped, manifest.quarantined):
        yield "counts", f"kept, dropped, quarantined are {found}, the manifest says otherwise"
    unscored = sum(made.statuses.values()) - made.statuses.get(OK, 0)
    if (made.statuses, unscored) != (manifest.statuses, manifest.unscored):
        yield "scores", "the statuses of the manifest are not those of the scores"


def _files(
    shard: Shard, made: Expected, manifest: Manifest, layout: Layout, storage: Storage
) -> Iterator[tuple[str, str]]:
    for kind, url, due in (
        ("parquet", layout.parquet(shard.name), made.parquet),
        ("ledger", layout.ledger(shard.name), made.ledger),
    ):
        if due is None or kind not in manifest.files:
            continue
        data = storage.read_bytes(url)
        if FileMark(len(data), hashlib.sha256(data).hexdigest()) != manifest.files[kind]:
            yield "file", f"{url} is not the file of the manifest: other size or SHA-256"
        elif not sidecars.read_parquet(data, url).equals(sidecars.read_parquet(due, url)):
            yield kind, f"{url} is not what input, scores and decision make"


def _keys(shard: Shard, manifest: Manifest, layout: Layout, storage: Storage) -> Iterator[str]:
    """One row of scores for each sample of the tar, in its order."""
    url = layout.scores(manifest.score_key, shard.name)
    keys = sidecars.read_parquet(storage.read_bytes(url), url)["key"].to_list()
    count = 0
    with storage.open(shard.url) as stream:
        for _, place in track(scan(stream, shard.url), ANY, shard.url):
            if place is not None and place.first:
                if count < len(keys) and keys[count] != place.key:
                    yield f"sample {count} is {place.key!r} in the tar and {keys[count]!r} in its scores"
                count += 1
    if count != len(keys) or count != manifest.samples:
        yield f"{len(keys)} rows of scores for {count} samples of {shard.url}; the manifest counts {manifest.samples}"
