"""Prove an output without any record of how it was made: its tars are parts of the inputs, byte for byte, in order.

For an output whose `_ecif` was lost, or one of another tool. Each output tar is held against the input tar of the same
relative name: first the digests of the output's samples are taken, then the input is read, and each of its samples
either is the next one that is due or went. So both are read once, with a digest per sample in memory. What cannot be
seen without records is why a sample went, and that an absent tar should be there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ecif.ahead import ahead
from ecif.interop import aliases
from ecif.layout import META, Layout
from ecif.progress import Progress, Silent, shown
from ecif.shards import sidecars
from ecif.shards.decode import derived_uid, record
from ecif.shards.headers import BLOCK
from ecif.shards.samples import track
from ecif.shards.sidecars import Row
from ecif.shards.tar import Entry, Limits, scan
from ecif.sources import Expansion, sidecars_of
from ecif.stages.parting import ANY
from ecif.stages.verify import Verification
from ecif.stages.violations import ShardCheck, Violation, noting
from ecif.storage import Storage

_AT_ONCE = 2


@dataclass(slots=True)
class _Item:
    """A sample, or a member of none: its name, the digest of its raw bytes, and the uid where it was asked for."""

    name: str
    is_sample: bool
    digest: Any
    uid: str = ""

    @property
    def identity(self) -> tuple[str, bool, bytes]:
        """What has to be the same in input and output."""
        return self.name, self.is_sample, self.digest.digest()


def verify_subset(
    layout: Layout,
    storage: Storage,
    expansion: Expansion,
    report: Callable[[ShardCheck], object],
    progress: Progress = Silent(),
) -> Verification:
    """Check every tar of an output against the inputs that are named, and the sidecars against the tars.

    Args:
        expansion: the inputs. report: takes what was found in each shard, in the order of their names.

    Raises:
        StorageError: the output cannot be listed.
    """
    inputs = {found.name: found.url for found in expansion.shards}
    root = storage.check(layout.root) + "/"
    own = f"{root}{META}/"
    files = {file.url.removeprefix(root) for file in storage.scan(layout.root) if not file.url.startswith(own)}
    outputs = {file.removesuffix(".tar") for file in files if file.endswith(".tar")}
    violations = [
        Violation(name, "no_input", f"{layout.tar(name)}: none of the sources has this name")
        for name in sorted(outputs - inputs.keys())
    ]
    for file in sorted(file for file in files if file.endswith((".parquet", "_stats.json"))):
        name = file.removesuffix("_stats.json").removesuffix(".parquet")
        # Other tables may lie there; only those that belong to an input are called strays.
        if name in inputs and name not in outputs:
            violations.append(Violation(name, "stray", f"{root}{file} has no tar beside it"))
    totals = dict.fromkeys(("samples", "kept", "dropped"), 0)

    def check(name: str) -> ShardCheck:
        return _Subset(name, inputs[name], layout, storage, files).check(name in outputs)

    with shown(progress, "verify", len(inputs), "shards"):
        for found in ahead(check, sorted(inputs), _AT_ONCE):
            report(found)
            violations += found.violations
            for count in totals:
                totals[count] += getattr(found, count)
            progress.advance()
    return Verification(len(outputs & inputs.keys()), **totals, quarantined=0, violations=tuple(violations))


class _Subset:
    """One shard."""

    def __init__(self, name: str, url: str, layout: Layout, storage: Storage, files: set[str]) -> None:
        self._name, self._url, self._storage = name, url, storage
        self._tar = layout.tar(name)
        parquet, stats = sidecars_of(self._tar)
        self._parquet = parquet if f"{name}.parquet" in files else None
        self._stats = stats if f"{name}_stats.json" in files else None
        self._violations: list[Violation] = []

    def check(self, written: bool) -> ShardCheck:
        """Read input and output; without an output all samples went."""
        due: list[_Item] = []
        samples = kept = 0
        with noting(self._name, "tar", self._violations):
            if written:
                due = self._output()
            position = 0
            with self._storage.open(self._url) as stream:
                for item in _items(scan(stream, self._url)):
                    samples += item.is_sample
                    if position < len(due) and item.identity == due[position].identity:
                        kept += item.is_sample
                        position += 1
            if position < len(due):
                self._explain(due[position])
        return ShardCheck(self._name, samples, kept, samples - kept, 0, tuple(self._violations))

    def _output(self) -> list[_Item]:
        """The output's items; and whether its end and its sidecars are as they should be."""
        parquet, stats = self._parquet, self._stats
        table = None if parquet is None else sidecars.read_parquet(self._storage.read_bytes(parquet), parquet)
        by_uid = table is not None and aliases.column("key", table.columns) is None
        with self._storage.open(self._tar) as stream:
            entries = scan(stream, self._tar)
            found = list(_items(entries, self._name if by_uid else None))
        if entries.end_blocks < 2 or entries.trailing is not None:
            where = entries.offset if entries.trailing is None else entries.trailing.offset
            self._note("bytes", f"{self._tar}, offset {where}: the tar does not end as a tar ends")
        rows = [Row(item.name, item.uid) for item in found if item.is_sample]
        with noting(self._name, "sidecars", self._violations):
            said = None if stats is None else sidecars.read_stats(self._storage.read_bytes(stats), stats)
            for problem in sidecars.disagreements(rows, table, said):
                self._note("sidecars", f"{self._tar}: {problem.detail}")
        return found

    def _explain(self, item: _Item) -> None:
        what = "sample" if item.is_sample else "member"
        problem = f"the {what} {item.name!r} is not in {self._url} with these bytes, behind those in front of it"
        self._note("bytes", f"{self._tar}: {problem}")

    def _note(self, what: str, detail: str) -> None:
        self._violations.append(Violation(self._name, what, detail))


def _items(entries: Iterator[Entry], shard: str | None = None) -> Iterator[_Item]:
    """Samples and single members of a tar, in the order in which they begin.

    A member that stands inside a sample comes after it.

    Args:
        shard: look into `.json` members for uids, as those of this shard.
    """
    current: _Item | None = None
    inside: list[_Item] = []
    for entry, place in track(entries, ANY):
        if place is None:
            single = _Item(entry.name, False, hashlib.sha256())
            for piece in entry.pieces():
                single.digest.update(piece)
            inside.append(single)
            continue
        if place.first or current is None:
            if current is not None:
                yield current
            yield from inside
            current, inside = _Item(place.key, True, hashlib.sha256()), []
            current.uid = "" if shard is None else derived_uid(shard, place.key)
        held = bytearray()
        look = shard is not None and place.extension == "json" and entry.size <= Limits().json_bytes
        for piece in entry.pieces():
            current.digest.update(piece)
            if look:
                held += piece
        if look:
            start = len(held) - -(-entry.size // BLOCK) * BLOCK
            current.uid = aliases.uid(record(memoryview(held)[start : start + entry.size], Limits())) or current.uid
    if current is not None:
        yield current
    yield from inside
