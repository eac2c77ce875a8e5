"""The proof for one shard: everything that is checked, each check apart, so that one failure does not hide another.

Input and output are read side by side in one pass. Every input sample has to be the next one of the output with the
same raw bytes, or a row of the ledger with the same hash (and, if quarantined, the next one of the quarantine);
nothing else may be in the output. The ledger has to be what the decision says, sizes and hashes those of the
manifest, the sidecars those of the tar. It costs one reading of everything; memory is one sample and the ledger.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import polars as pl

from ecif.errors import InputError, MissingFileError
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.manifest import FileMark, Manifest
from ecif.selection import Decision
from ecif.shards import sidecars
from ecif.shards.compare import Comparison
from ecif.shards.decode import OK
from ecif.shards.samples import Sample, group
from ecif.shards.sidecars import Row
from ecif.shards.tar import Limits, read_members
from ecif.stages import apply
from ecif.storage import Storage


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that does not hold.

    Attributes:
        shard: its name. what: for machines. detail: for people, with the file.
    """

    shard: str
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class ShardCheck:
    """What was read of one shard; the counts are those found in the bytes, not those of the manifest."""

    shard: str
    samples: int = 0
    kept: int = 0
    dropped: int = 0
    quarantined: int = 0
    violations: tuple[Violation, ...] = ()


def verify_shard(
    shard: Shard, layout: Layout, storage: Storage, manifest: Manifest | None, decision: Decision | None
) -> ShardCheck:
    """Check one shard; problems of its files are violations, not exceptions.

    Args:
        manifest: None when the shard has none. decision: None when the output does not hold it.
    """
    if manifest is None:
        problem = Violation(shard.name, "not_written", f"{shard.url}: not written yet, it has no manifest")
        return ShardCheck(shard.name, violations=(problem,))
    proof = _Proof(shard, layout, storage, manifest, decision)
    proof.run()
    counts = proof.counts
    return ShardCheck(
        shard.name,
        sum(counts.values()),
        counts[apply.KEEP],
        counts[apply.DROP],
        counts[apply.QUARANTINE],
        tuple(proof.violations),
    )


class _Proof:
    """The checks of one shard; each notes what does not hold and leaves the others to go on."""

    def __init__(
        self, shard: Shard, layout: Layout, storage: Storage, manifest: Manifest, decision: Decision | None
    ) -> None:
        self.shard, self.layout, self.storage, self.manifest, self.decision = shard, layout, storage, manifest, decision
        self.violations: list[Violation] = []
        self.counts: Counter[str] = Counter()
        self.uids: dict[int, str] = {}  # a parquet without keys is matched by them
        name = shard.name
        self.urls = {
            "tar": layout.tar(name), "quarantine": layout.quarantine(name), "parquet": layout.parquet(name),
            "stats": layout.stats(name), "ledger": layout.ledger(name),
        }  # fmt: skip

    def run(self) -> None:
        """All checks."""
        with self._noting("input"):
            self._input()
        contents: dict[str, bytes] = {}
        for kind in ("ledger", "parquet", "stats"):
            with self._noting(kind):
                if (data := self._small(kind)) is not None:
                    contents[kind] = data
        with self._noting("ledger"):
            ledger = self._ledger(contents.get("ledger"))
            with self._noting("scores"):
                self._scores(ledger)
            with self._noting("tar"):
                samples = self._tars(ledger)
                with self._noting("sidecars"):
                    self._sidecars(samples, contents)

    def _noting(self, what: str) -> AbstractContextManager[None]:
        return noting(self.shard.name, what, self.violations)

    def _note(self, what: str, detail: str) -> None:
        self.violations.append(Violation(self.shard.name, what, detail))

    def _input(self) -> None:
        then = self.manifest.input
        if then.url != self.shard.url:
            self._note("input", f"was written from {then.url}, the inventory has {self.shard.url}")
        now = self.storage.info(self.shard.url)
        if (now.size, now.etag) != (then.size, then.etag):
            self._note("input", f"{self.shard.url} has changed since the shard was written")

    def _small(self, kind: str) -> bytes | None:
        """A small file, compared with its mark; None when the manifest has none."""
        mark = self.manifest.files.get(kind)
        if mark is None:
            return None
        data = self.storage.read_bytes(self.urls[kind])
        self._compare(kind, FileMark(len(data), hashlib.sha256(data).hexdigest()))
        return data

    def _compare(self, kind: str, found: FileMark) -> None:
        if found != self.manifest.files[kind]:
            self._note("file", f"{self.urls[kind]} is not the file of the manifest: other size or SHA-256")

    def _ledger(self, data: bytes | None) -> dict[int, dict[str, Any]]:
        """The ledger's rows by index of the sample."""
        url = self.urls["ledger"]
        if data is None:
            raise MissingFileError("the manifest lists no ledger", url=url)
        try:
            table = pl.read_parquet(io.BytesIO(data))
        except Exception as error:
            raise InputError(f"cannot be read: {error}", url=url) from error
        if dict(table.schema) != apply.LEDGER:
            raise InputError(f"has the columns {', '.join(table.columns)}, not those of a ledger", url=url)
        found = {row["index"]: row for row in table.iter_rows(named=True)}
        if len(found) != table.height:
            self._note("ledger", f"{url} lists a sample twice")
        return found

    def _scores(self, ledger: dict[int, dict[str, Any]]) -> None:
        """One row per sample, and the ledger what the decision makes of them."""
        if self.decision is None:
            self._note("decision", f"{self.layout.decision(self.manifest.decision_key)} cannot be read")
            return
        scores = apply.read_scores(self.shard, self.decision, self.layout, self.storage)
        self.uids = dict(enumerate(scores["uid"]))
        if scores.height != self.manifest.samples:
            self._note("scores", f"{scores.height} rows of scores for {self.manifest.samples} samples")
        statuses = dict(scores["status"].value_counts().iter_rows())
        if statuses != self.manifest.statuses or self.manifest.unscored != scores.height - statuses.get(OK, 0):
            self._note("scores", "the statuses of the manifest are not those of the scores")
        expected = apply.judge(scores, self.decision).filter(pl.col("action") != apply.KEEP)
        for row in expected.iter_rows(named=True):
            found = ledger.get(row["index"], {})
            if {name: found.get(name) for name in row} != row:
                self._note("ledger", f"sample {row['key']!r} goes by the decision; its row is missing or another one")
                return
        if len(ledger) != expected.height:
            self._note("ledger", f"the ledger lists {len(ledger)} samples, by the decision {expected.height} go")

    def _tars(self, ledger: dict[int, dict[str, Any]]) -> list[Row]:
        """Read all tars side by side; the input's samples."""
        limits, rows = Limits(), []
        url = self.shard.url
        with self._written("tar") as kept, self._written("quarantine") as aside, self.storage.open(url) as tar:
            for item in group(read_members(tar, url, limits), limits, url):
                if not isinstance(item, Sample):
                    kept.expect(item)
                    continue
                row = ledger.get(item.index)
                action = apply.KEEP if row is None else row["action"]
                self.counts[action] += 1
                rows.append(Row(item.key, self.uids.get(item.index, ""), row is not None))
                if row is not None and (row["sha256"], row["key"]) != (item.sha256(), item.key):
                    self._note("ledger", f"sample {item.key!r} is another one than its row in the ledger says")
                for member in item.members if action == apply.QUARANTINE else ():
                    aside.expect(member)
                for member in item.in_order if row is None else item.between:
                    kept.expect(member)
        count = self.counts
        found = (sum(count.values()), count[apply.KEEP], count[apply.DROP], count[apply.QUARANTINE])
        says = self.manifest
        if found != (says.samples, says.kept, says.dropped, says.quarantined):
            self._note("counts", f"samples, kept, dropped, quarantined are {found}, the manifest says otherwise")
        for kind, some in (("tar", says.kept), ("quarantine", says.quarantined)):
            if (kind in says.files) != (some > 0):
                self._note("counts", f"the manifest counts {some} samples in {self.urls[kind]}, and lists it wrongly")
        return rows

    @contextmanager
    def _written(self, kind: str) -> Iterator[Comparison]:
        """A written tar, to be held against what it has to hold; one that does not exist holds nothing."""
        url = self.urls[kind]
        if kind not in self.manifest.files:
            yield Comparison(None, url)
            return
        with self.storage.open(url) as stream:
            comparison = Comparison(stream, url)
            yield comparison
            self._compare(kind, comparison.finish())
        if comparison.difference is not None:
            self._note("bytes", comparison.difference)

    def _sidecars(self, samples: list[Row], contents: dict[str, bytes]) -> None:
        """The sidecars fit the new tar, and the parquet's other rows are those of the input's."""
        files = self.manifest.files
        for kind, source in (("parquet", self.shard.parquet), ("stats", self.shard.stats)):
            if (kind in files) != (source is not None and self.manifest.kept > 0):
                self._note("sidecars", f"{self.urls[kind]} and the input's file: only one of them exists")
        table = stats = None
        if "stats" in contents:
            stats = sidecars.read_stats(contents["stats"], self.urls["stats"])
        if "parquet" in contents and self.shard.parquet is not None:
            table = sidecars.read_parquet(contents["parquet"], self.urls["parquet"])
            before = self.storage.read_bytes(self.shard.parquet)
            expected = sidecars.rewrite_parquet(before, samples, self.shard.parquet)
            if not table.equals(sidecars.read_parquet(expected, self.urls["parquet"])):
                self._note("sidecars", f"{self.urls['parquet']} is not the input's table without the dropped rows")
        for found in sidecars.disagreements(samples, table, stats):
            self._note("sidecars", f"{self.shard.name}: {found.detail}")


@contextmanager
def noting(shard: str, what: str, violations: list[Violation]) -> Iterator[None]:
    """Turn a problem of a file into a violation `what`, or `missing` when the file is not there."""
    try:
        yield
    except InputError as error:
        violations.append(Violation(shard, "missing" if isinstance(error, MissingFileError) else what, str(error)))
