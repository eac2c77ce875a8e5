"""What a run came to: small numbers, names and places, for the terminal, `--json`, Prefect and its artifacts."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ecif.metrics import Totals

if TYPE_CHECKING:
    from ecif.stability import Drift

ONE_FAILED = "; 1 shard failed and was set aside"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The state of an output after a run; counts are of the whole output, not only of what this run did.

    Attributes:
        shards: in the inventory, or of them those under the prefix that the run was restricted to.
        pairs: samples in these shards, as far as their number is known.
        scored, written: shards with scores, with a manifest.
        kept, dropped, quarantined, unscored: samples in written shards. Unscored ones are also among the others.
        overlap: samples scored by this run whose image is in the validation set.
        statuses: samples by status.
        failed: {"shard", "stage", "reason", "passing"} of the shards that were set aside.
        missing: members of brace ranges that do not exist.
        decision_key: None when nothing was decided: no policy, or a storage that failed before.
        cut: what decided, in words. expected: what canaries promise of it (`ecif.stages.deciding`); empty without them.
        report: URL of the report.
        seconds: by stage, of this run.
    """

    out: str
    shards: int = 0
    pairs: int = 0
    scored: int = 0
    written: int = 0
    kept: int = 0
    dropped: int = 0
    quarantined: int = 0
    unscored: int = 0
    overlap: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    failed: list[dict[str, Any]] = field(default_factory=list)
    missing: int = 0
    score_key: str = ""
    decision_key: str | None = None
    cut: str = ""
    expected: str = ""
    report: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self)

    def totals(self, drift: Drift | None = None) -> Totals:
        """The same as numbers for Prometheus, with the time of now and the drift of the new shards."""
        out = self.out
        shards = {
            "known": self.shards,
            "scored": self.scored,
            "written": self.written,
            "failed": len(self.failed),
            "missing": self.missing,
        }
        samples = {name: getattr(self, name) for name in ("kept", "dropped", "quarantined", "unscored")}
        return {
            **{("ecif_corpus_shards", (out, state)): count for state, count in shards.items()},
            **{("ecif_corpus_samples", (out, state)): n for state, n in {"known": self.pairs, **samples}.items()},
            **{("ecif_corpus_statuses", (out, status)): count for status, count in self.statuses.items()},
            **{("ecif_run_seconds", (out, stage)): seconds for stage, seconds in self.seconds.items()},
            **({("ecif_drift_psi", (out, drift.column)): drift.psi} if drift is not None else {}),
            ("ecif_run_finished_timestamp_seconds", (out,)): time.time(),
        }

    def headline(self) -> str:
        """The outcome in a sentence."""
        if self.decision_key is None:
            text = (
                f"{self.pairs:,} pairs in {self.shards:,} shards, {self.scored:,} of them scored; nothing was dropped"
            )
        else:
            total = self.kept + self.dropped + self.quarantined
            share = f" ({self.dropped / total:.2%})" if total else ""
            text = f"kept {self.kept:,} of {total:,} pairs in {self.written:,} shards, dropped {self.dropped:,}{share}"
            if self.quarantined:
                text += f", quarantined {self.quarantined:,}"
        if self.unscored:
            text += f"; {self.unscored:,} could not be scored"
        if self.failed:
            text += f"; {len(self.failed):,} shards failed and were set aside" if len(self.failed) > 1 else ONE_FAILED
        return text
