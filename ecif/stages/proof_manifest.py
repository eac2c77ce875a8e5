"""The manifest of a shard is this version's, of this decision and of this input, and lists the files that are due."""

from __future__ import annotations

from collections.abc import Collection

from ecif import ALGO_VERSION
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.manifest import Manifest
from ecif.selection import Decision
from ecif.stages.violations import Violation, noting
from ecif.storage import Storage


def check_manifest(
    shard: Shard,
    manifest: Manifest,
    decision: Decision | None,
    due: Collection[str],
    layout: Layout,
    storage: Storage,
    violations: list[Violation],
) -> None:
    """Add to `violations` what does not hold.

    Args:
        due: kinds of files that have to be listed, and no others.
    """
    url = layout.manifest(shard.name)

    def note(what: str, detail: str) -> None:
        violations.append(Violation(shard.name, what, detail))

    if manifest.algo_version != ALGO_VERSION:
        problem = f"version {manifest.algo_version} of the algorithm wrote it, this is version {ALGO_VERSION}"
        note("version", f"{url}: {problem}: verify it with the ECIF that wrote it")
    if manifest.input != shard.info:
        note("input", f"{url}: was written from another file than the inventory has, {shard.url}")
    with noting(shard.name, "input", violations):
        now = storage.info(shard.url)
        if (now.size, now.etag) != (shard.size, shard.etag):
            note("input", f"{shard.url} has changed since the inventory")
    keys = (manifest.fit_key, manifest.score_key)
    if decision is not None and keys != (decision.fit_key, decision.score_key):
        note("decision", f"{url}: names another fit or other scores than its decision")
    for kind in sorted(set(due) ^ manifest.files.keys()):
        problem = f"lists no {kind}" if kind in due else f"lists a {kind}, of which there should be none"
        note("sidecars" if kind in ("parquet", "stats") else "counts", f"{url} {problem}")
