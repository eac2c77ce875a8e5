"""Prove an output from its bytes: what is there is what was there before, and what is gone stands in the ledger.

Each shard is proved apart (`proof`, and `pack_proof` where survivors were packed anew); here it is seen that every
shard of the inventory is there, that one decision made them all, that the small files which bind them are as they were
written (`proof_records`), and that the output holds nothing else. Each input is read once, and a few shards at a time.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ecif import manifest as manifests
from ecif import packmap, packs
from ecif.ahead import ahead
from ecif.errors import InputError, UsageError
from ecif.inventory import Inventory, Shard
from ecif.layout import Layout
from ecif.manifest import Manifest
from ecif.packmap import PackMap
from ecif.progress import Progress, Silent, shown
from ecif.selection import Decision
from ecif.shards.tar import Limits
from ecif.stages.pack_proof import verify_map, verify_pack
from ecif.stages.plan import Applied, applied, load_decision
from ecif.stages.proof import verify_shard
from ecif.stages.proof_columns import verify_columns
from ecif.stages.proof_records import Records
from ecif.stages.scored import limits as saved_limits
from ecif.stages.strays import Listed
from ecif.stages.violations import ShardCheck, Violation, noting
from ecif.storage import Storage

__all__ = ["ShardCheck", "Verification", "Violation", "verify", "verify_shard"]

# Shards that are read at the same time: one waits for its storage while another one is hashed.
_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Verification:
    """What was read of an output: shards with a manifest, their samples, and all that does not hold.

    Attributes:
        kept, dropped, quarantined: samples of the inputs, as found in the bytes.
        restored: of those that went, how many came back. packed: shards that survivors were packed into.
    """

    shards: int
    samples: int
    kept: int
    dropped: int
    quarantined: int
    violations: tuple[Violation, ...]
    restored: int = 0
    packed: int = 0

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
    run = _Verify(layout, storage, inventory)
    with shown(progress, "verify", inventory.total_samples() or 0, "samples"):
        for check in ahead(run.check, inventory.shards, _AT_ONCE):
            run.take(check)
            progress.advance(check.samples)
    run.whole(progress)
    return run.result()


class _Verify:
    """The proof of one output."""

    def __init__(self, layout: Layout, storage: Storage, inventory: Inventory) -> None:
        self.layout, self.storage, self.inventory = layout, storage, inventory
        self.violations: list[Violation] = []
        self.done = manifests.done(layout, storage)
        self.records = Records(layout, storage, self.violations)
        self.form: Applied | None = None
        with noting("", "decision", self.violations):
            self.form = applied(layout, storage)
        self.decisions: dict[str, Decision | None] = {}
        self.kept: dict[str, int] = {}  # of every shard with a manifest
        self.decided: set[str] = set()
        self.packed = PackMap()
        with noting("", "map", self.violations):
            self.packed = packmap.load(layout, storage)
        self.returned = self.records.returned()
        back = [one for each in self.returned.values() for one in each]
        self.listed = Listed(layout, storage, self.packed, back, list(self.records.claim_urls()))
        self.totals = dict.fromkeys(("samples", "kept", "dropped", "quarantined"), 0)
        self.targets = 0

    def check(self, shard: Shard) -> ShardCheck:
        """One shard; called from several threads."""
        violations: list[Violation] = []
        with noting(shard.name, "bad_manifest", violations):
            found = manifests.read(self.layout, self.storage, shard.name) if shard.name in self.done else None
            decision = None
            if found is not None:
                self._remember(found)
                decision = self._decision(found.decision_key)
            if found is not None and self._is_columns(found):
                return verify_columns(shard, self.layout, self.storage, found, decision, self._limits(found))
            returned, tar = self.returned.get(shard.name, ()), self.form is None or self.form.repack is None
            limits = Limits() if found is None else self._limits(found)
            return verify_shard(shard, self.layout, self.storage, found, decision, returned, tar=tar, limits=limits)
        return ShardCheck(shard.name, violations=tuple(violations))

    def take(self, check: ShardCheck) -> None:
        """Add what was found in one shard."""
        self.violations += check.violations
        for name in self.totals:
            self.totals[name] += getattr(check, name)

    def whole(self, progress: Progress) -> None:
        """What concerns more than one shard."""
        unlisted = sorted(self.done - {shard.name for shard in self.inventory.shards})
        for name in unlisted:
            detail = f"{self.layout.manifest(name)}: has a manifest but is in no inventory"
            self.violations.append(Violation(name, "not_in_inventory", detail))
        if len(self.decisions) > 1:
            mixed = ", ".join(sorted(self.decisions))
            self.violations.append(Violation("", "several_decisions", f"{self.layout.root} mixes {mixed}"))
        self._packs(progress)
        self.records.check(self.form, self.decided - {""}, self.packed)
        self.violations += self.listed.strays()

    def result(self) -> Verification:
        """All of it."""
        restored = sum(one.record.samples for each in self.returned.values() for one in each)
        return Verification(
            shards=len(self.kept),
            **self.totals,
            violations=tuple(self.violations),
            restored=restored,
            packed=self.targets,
        )

    def _remember(self, found: Manifest) -> None:
        """What the whole needs to know of a shard: its manifest is not held."""
        self.kept[found.shard] = found.kept
        self.decided.add(found.decision_key)
        self.listed.add(found.shard, found.files)
        self.records.check_returned(self.returned.get(found.shard, ()), found)

    def _is_columns(self, found: Manifest) -> bool:
        """Whether the output holds columns instead of tars; such a one need not have a decision."""
        return found.decision_key == "" if self.form is None else self.form.write == "columns"

    def _decision(self, key: str) -> Decision | None:
        if key == "":
            return None
        if key not in self.decisions:
            try:
                self.decisions[key] = load_decision(self.layout, self.storage, key)
            except (InputError, UsageError):
                self.decisions[key] = None
        return self.decisions[key]

    def _limits(self, found: Manifest) -> Limits:
        """Those of the run that made the scores; what a list may look into depends on them."""
        try:
            return saved_limits(self.layout, self.storage, found.score_key)
        except (InputError, UsageError):
            return Limits()

    def _packs(self, progress: Progress) -> None:
        """The shards that survivors were packed into."""
        if not self.packed.generations and (self.form is None or self.form.repack is None):
            return
        self.violations += verify_map(self.packed, self.kept, self.layout)
        shards = self.inventory.by_name()

        def check(target: packmap.Target) -> list[Violation]:
            violations: list[Violation] = []
            with noting(target.name, "bad_manifest", violations):
                found = packs.read(target, self.layout, self.storage)
                violations += verify_pack(target, found, shards, self.layout, self.storage)
                if found is not None:
                    violations += self.records.problems_of_pack(found, self.decisions.get(found.decision_key))
            return violations

        with shown(progress, "verify packed shards", self.packed.packed, "shards"):
            for violations in ahead(check, self.packed.targets(), _AT_ONCE):
                self.violations += violations
                self.targets += 1
                progress.advance()
