"""The proof for one shard: everything that is checked, each check apart, so that one failure does not hide another.

Input and output are read side by side in one pass (`proof_pass`). Every input sample has to be the next one of the
output with the same raw bytes, or a row of the ledger with the same hash (and, if quarantined, the next one of the
quarantine); nothing else may be in the output. The ledger has to be what the decision makes of the scores, sizes and
hashes those of the manifest, the sidecars those of the tar. It costs one reading of everything; memory is a few blocks,
the names in the shard and the ledger.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import polars as pl

from ecif import ledger, lists
from ecif.errors import InputError
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.manifest import FileMark, Manifest
from ecif.selection import Decision
from ecif.shards.compare import Comparison
from ecif.shards.decode import OK
from ecif.shards.sidecars import Row
from ecif.shards.tar import Limits
from ecif.stages.proof_manifest import check_manifest
from ecif.stages.proof_pass import Judged, Pass
from ecif.stages.proof_sidecars import Returned, problems, problems_of_returned
from ecif.stages.violations import ShardCheck, Violation, noting
from ecif.storage import Storage
from ecif.verdicts import DROP, KEEP, QUARANTINE, judge, read_scores

__all__ = ["Returned", "ShardCheck", "Violation", "noting", "verify_shard"]


def verify_shard(
    shard: Shard,
    layout: Layout,
    storage: Storage,
    manifest: Manifest | None,
    decision: Decision | None,
    returned: Sequence[Returned] = (),
    *,
    tar: bool = True,
    limits: Limits = Limits(),
) -> ShardCheck:
    """Check one shard; problems of its files are violations, not exceptions.

    Args:
        manifest: None when the shard has none. decision: None when the output does not hold it.
        returned: the restored shards that hold samples of this one.
        tar: whether the survivors have to be in a tar of the same name; False for an output that is packed anew.
        limits: what a list may look into.
    """
    if manifest is None:
        problem = Violation(shard.name, "not_written", f"{shard.url}: not written yet, it has no manifest")
        return ShardCheck(shard.name, violations=(problem,))
    proof = _Proof(shard, layout, storage, manifest, decision, returned, tar, limits)
    proof.run()
    counts = proof.counts
    return ShardCheck(
        shard.name, sum(counts.values()), counts[KEEP], counts[DROP], counts[QUARANTINE], tuple(proof.violations)
    )


class _Proof:
    """The checks of one shard; each notes what does not hold and leaves the others to go on."""

    def __init__(
        self,
        shard: Shard,
        layout: Layout,
        storage: Storage,
        manifest: Manifest,
        decision: Decision | None,
        returned: Sequence[Returned],
        tar: bool,
        limits: Limits,
    ) -> None:
        self.shard, self.layout, self.storage, self.manifest, self.decision = shard, layout, storage, manifest, decision
        self.returned, self.has_tar, self.limits = returned, tar and manifest.kept > 0, limits
        self.violations: list[Violation] = []
        self.counts: Counter[str] = Counter()
        name = shard.name
        self.urls = {
            "tar": layout.tar(name), "quarantine": layout.quarantine(name), "parquet": layout.parquet(name),
            "stats": layout.stats(name), "ledger": layout.ledger(name),
        }  # fmt: skip

    def run(self) -> None:
        """All checks."""
        self._manifest()
        contents: dict[str, bytes] = {}
        for kind in ("ledger", "parquet", "stats"):
            with self._noting(kind):
                if (data := self._small(kind)) is not None:
                    contents[kind] = data
        with self._noting("ledger"):
            rows = self._ledger(contents.get("ledger"))
            verdicts = judged = None
            with self._noting("scores"):
                verdicts, judged = self._judged()
            with self._noting("tar"):
                samples = self._tars(rows, judged)
                with self._noting("sidecars"):
                    self._sidecars(samples, contents)
            if verdicts is not None and judged is not None:
                self._same_ledger(rows, verdicts, judged)

    def _noting(self, what: str) -> AbstractContextManager[None]:
        return noting(self.shard.name, what, self.violations)

    def _note(self, what: str, detail: str) -> None:
        self.violations.append(Violation(self.shard.name, what, detail))

    def _manifest(self) -> None:
        due = {"ledger", "scores"}
        due |= {"tar"} if self.has_tar else set()
        due |= {"quarantine"} if self.manifest.quarantined else set()
        due |= {"parquet"} if self.has_tar and self.shard.parquet is not None else set()
        due |= {"stats"} if self.has_tar and self.shard.stats is not None else set()
        check_manifest(self.shard, self.manifest, self.decision, due, self.layout, self.storage, self.violations)

    def _small(self, kind: str) -> bytes | None:
        """A small file; None when the manifest has none. Other bytes than its are not looked into."""
        mark = self.manifest.files.get(kind)
        if mark is None:
            return None
        data = self.storage.read_bytes(self.urls[kind])
        if mark != FileMark(len(data), hashlib.sha256(data).hexdigest()):
            self._note("file", f"{self.urls[kind]} is not the file of the manifest: other size or SHA-256")
            return None
        return data

    def _ledger(self, data: bytes | None) -> dict[int, dict[str, Any]]:
        """The ledger's rows by index of the sample."""
        url = self.urls["ledger"]
        if data is None:
            raise InputError("without the ledger of the manifest it cannot be told what is due in the tar", url=url)
        table = ledger.read(data, url)
        found = {row["index"]: row for row in table.iter_rows(named=True)}
        if len(found) != table.height:
            self._note("ledger", f"{url} lists a sample twice")
        if not table["index"].is_sorted():
            self._note("ledger", f"{url} is not in the order of the tar")
        return found

    def _judged(self) -> tuple[pl.DataFrame, Judged] | tuple[None, None]:
        """What the decision makes of the scores; nothing when there is no decision."""
        if self.decision is None:
            self._note("decision", f"{self.layout.decision(self.manifest.decision_key)} cannot be read")
            return None, None
        mark = self.manifest.files.get("scores")
        scores, _ = read_scores(self.shard, self.decision, self.layout, self.storage, mark)
        if scores.height != self.manifest.samples:
            self._note("scores", f"{scores.height} rows of scores for {self.manifest.samples} samples")
        statuses = dict(scores["status"].value_counts().iter_rows())
        if statuses != self.manifest.statuses or self.manifest.unscored != scores.height - statuses.get(OK, 0):
            self._note("scores", "the statuses of the manifest are not those of the scores")
        chosen = lists.read(self.decision, self.layout, self.storage)
        verdicts = judge(scores, self.decision, chosen)
        columns = verdicts.select("key", "uid", "action", "reason").to_dict(as_series=False)
        return verdicts, Judged(columns["key"], columns["uid"], columns["action"], columns["reason"], chosen)

    def _same_ledger(self, rows: dict[int, dict[str, Any]], verdicts: pl.DataFrame, judged: Judged) -> None:
        """The ledger is what the decision makes of the scores and, where lists look into them, of the samples."""
        final = verdicts.with_columns(
            action=pl.Series(judged.actions, dtype=pl.String), reason=pl.Series(judged.reasons, dtype=pl.String)
        )
        expected = final.filter(pl.col("action") != KEEP)
        for row in expected.iter_rows(named=True):
            found = rows.get(row["index"], {})
            if {name: found.get(name) for name in row} != row:
                self._note("ledger", f"sample {row['key']!r} goes by the decision; its row is missing or another one")
                return
        if len(rows) != expected.height:
            self._note("ledger", f"the ledger lists {len(rows)} samples, by the decision {expected.height} go")

    def _tars(self, rows: dict[int, dict[str, Any]], judged: Judged | None) -> list[Row]:
        """Read all tars side by side; the input's samples."""
        says, url = self.manifest, self.shard.url
        with ExitStack() as stack:
            written = {
                kind: self._written(self.urls[kind] if kind in says.files else None, says.files.get(kind), stack)
                for kind in ("tar", "quarantine")
            }
            back = [
                self._written(self.layout.tar(one.record.name(self.layout)), one.record.files.get("tar"), stack)
                for one in self.returned
            ]
            restored = [(one.samples, tar.comparison) for one, tar in zip(self.returned, back, strict=True)]
            kept, aside = written["tar"].comparison, written["quarantine"].comparison
            passing = Pass(rows, judged, kept, aside, restored, self._note)
            self.counts = passing.counts
            with self.storage.open(url) as source:
                passing.run(source, url, self.limits)
            for tar in (*written.values(), *back):
                self._finish(tar)
        count = self.counts
        found = (sum(count.values()), count[KEEP], count[DROP], count[QUARANTINE])
        if found != (says.samples, says.kept, says.dropped, says.quarantined):
            self._note("counts", f"samples, kept, dropped, quarantined are {found}, the manifest says otherwise")
        return passing.rows

    def _written(self, url: str | None, mark: FileMark | None, stack: ExitStack) -> _Written:
        """A written tar, to be held against what it has to hold; without `url` nothing is compared."""
        if url is not None:
            with self._noting("tar"):
                return _Written(url, mark, Comparison(stack.enter_context(self.storage.open(url)), url))
        return _Written("", None, Comparison(None, ""))

    def _finish(self, tar: _Written) -> None:
        if tar.url:
            with self._noting("tar"):
                if tar.comparison.finish() != tar.mark:
                    self._note("file", f"{tar.url} is not the file of its manifest: other size or SHA-256")
        if tar.comparison.difference is not None:
            self._note("bytes", tar.comparison.difference)

    def _sidecars(self, samples: list[Row], contents: dict[str, bytes]) -> None:
        for problem in problems(self.shard, samples, contents, self.urls, self.storage):
            self._note("sidecars", problem)
        for one in self.returned:
            with self._noting("restored"):
                for problem in problems_of_returned(one, self.shard, samples, self.layout, self.storage):
                    self._note("restored", problem)


@dataclass(frozen=True, slots=True)
class _Written:
    """A tar that was written, its mark, and how far it is what it has to be."""

    url: str
    mark: FileMark | None
    comparison: Comparison
