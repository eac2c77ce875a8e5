"""Prove an output from its bytes: what is there is what was there before, and what is gone stands in the ledger.

Each shard is proved apart (`proof`); here it is seen that every shard of the inventory is there, that one decision
made them all, and that the output holds nothing else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ecif import manifest as manifests
from ecif.errors import InputError, UsageError
from ecif.inventory import Inventory
from ecif.layout import META, Layout
from ecif.manifest import Manifest
from ecif.progress import Progress, Silent
from ecif.selection import Decision
from ecif.stages.plan import load_decision
from ecif.stages.proof import ShardCheck, Violation, noting, verify_shard
from ecif.storage import Storage

__all__ = ["ShardCheck", "Verification", "Violation", "verify", "verify_shard"]


@dataclass(frozen=True, slots=True)
class Verification:
    """What was read of an output: shards with a manifest, their samples, and all that does not hold."""

    shards: int
    samples: int
    kept: int
    dropped: int
    quarantined: int
    violations: tuple[Violation, ...]

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.violations

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"ok": self.ok, "violations": [asdict(violation) for violation in self.violations]}


def verify(layout: Layout, storage: Storage, inventory: Inventory, progress: Progress = Silent()) -> Verification:
    """Check every shard of the inventory, and that the output holds nothing else.

    A shard without a manifest is a violation (`not_written`): the output is not complete.

    Raises:
        StorageError: the output cannot be listed.
    """
    done = manifests.done(layout, storage)
    decisions: dict[str, Decision | None] = {}
    checks: list[ShardCheck] = []
    written: dict[str, Manifest] = {}
    violations: list[Violation] = []
    progress.stage("verify", inventory.total_samples() or 0, "samples")
    try:
        for shard in inventory.shards:
            with noting(shard.name, "bad_manifest", violations):
                found = manifests.read(layout, storage, shard.name) if shard.name in done else None
                decision = None
                if found is not None:
                    written[shard.name] = found
                    decision = _decision(found.decision_key, layout, storage, decisions)
                check = verify_shard(shard, layout, storage, found, decision)
                checks.append(check)
                violations += check.violations
                progress.advance(check.samples)
    finally:
        progress.end()
    unlisted = sorted(done - {shard.name for shard in inventory.shards})
    problem = "has a manifest but is in no inventory"
    violations += [Violation(name, "not_in_inventory", f"{layout.manifest(name)}: {problem}") for name in unlisted]
    if len(decisions) > 1:
        violations.append(Violation("", "several_decisions", f"{layout.root} mixes {', '.join(sorted(decisions))}"))
    violations += _strays(layout, storage, written)
    return Verification(
        shards=len(written),
        samples=sum(check.samples for check in checks),
        kept=sum(check.kept for check in checks),
        dropped=sum(check.dropped for check in checks),
        quarantined=sum(check.quarantined for check in checks),
        violations=tuple(violations),
    )


def _decision(key: str, layout: Layout, storage: Storage, known: dict[str, Decision | None]) -> Decision | None:
    if key not in known:
        try:
            known[key] = load_decision(layout, storage, key)
        except (InputError, UsageError):
            known[key] = None
    return known[key]


def _strays(layout: Layout, storage: Storage, written: dict[str, Manifest]) -> list[Violation]:
    """Shards, sidecars and quarantines that no manifest lists."""
    expected = set()
    for name, found in written.items():
        urls = {"tar": layout.tar(name), "parquet": layout.parquet(name), "stats": layout.stats(name)}
        urls["quarantine"] = layout.quarantine(name)
        expected |= {storage.check(url) for kind, url in urls.items() if kind in found.files}
    root = storage.check(layout.root) + "/"
    strays = []
    for file in storage.list(layout.root):
        inside = file.url.removeprefix(root)
        is_shard = inside.endswith((".tar", ".parquet", "_stats.json")) and not inside.startswith(f"{META}/")
        if (is_shard or inside.startswith(f"{META}/quarantine/")) and file.url not in expected:
            name = inside.removeprefix(f"{META}/quarantine/").rpartition(".")[0].removesuffix("_stats")
            strays.append(Violation(name, "stray", f"{file.url} is in no manifest"))
    return strays
