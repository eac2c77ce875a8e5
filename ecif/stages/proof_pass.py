"""One pass over an input tar that holds everything that was made from it against it, member by member.

The pieces of a member are compared, hashed and, where a list has to look into it, collected while they are in memory,
so that a member may be larger than memory and input and output are each read once. The ledger says where each sample
is due; whether the ledger is right follows from the scores, and is compared by the caller (`proof`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from ecif.lists import Lists
from ecif.shards.compare import Comparison
from ecif.shards.entries import Entry
from ecif.shards.headers import BLOCK
from ecif.shards.samples import Place, track
from ecif.shards.sidecars import Row
from ecif.shards.tar import Limits, scan
from ecif.shards.window import Stream
from ecif.stages.parting import ANY
from ecif.verdicts import KEEP, QUARANTINE, by_content, content_of


@dataclass(slots=True)
class Judged:
    """What the scores say of each sample of a shard, in order, and the lists that may still change it."""

    keys: Sequence[str]
    uids: Sequence[str]
    actions: list[str]
    reasons: list[str | None]
    lists: Lists


@dataclass(slots=True)
class _Sample:
    place: Place
    row: Mapping[str, Any] | None
    due: list[Comparison]
    digest: Any
    payload: dict[str, memoryview] = field(default_factory=dict)


class Pass:
    """Reads the input.

    Args:
        ledger: rows by position of the sample.
        judged: None when that is not known; its actions and reasons are completed by the lists.
        kept, aside: the written tar and the quarantine.
        restored: positions of samples that came back, with the tar that holds them.
        note: takes what does not hold: a code and a text.

    Attributes:
        counts: samples by action of the ledger. rows: all samples, for the sidecars.
    """

    def __init__(
        self,
        ledger: Mapping[int, Mapping[str, Any]],
        judged: Judged | None,
        kept: Comparison,
        aside: Comparison,
        restored: Sequence[tuple[AbstractSet[int], Comparison]],
        note: Callable[[str, str], None],
    ) -> None:
        self._ledger, self._judged = ledger, judged
        self._kept, self._aside, self._restored, self._note = kept, aside, restored, note
        self._look = judged is not None and judged.lists.by_content
        self.counts: Counter[str] = Counter()
        self.rows: list[Row] = []

    def run(self, stream: Stream, url: str, limits: Limits = Limits()) -> None:
        """Read the tar to its end.

        Raises:
            BadTarError: it is damaged. InputError: the storage failed, or it changed.
        """
        current: _Sample | None = None
        for entry, place in track(scan(stream, url, limits), ANY, url):
            if place is None:
                self._kept.expect(entry)
                continue
            if place.first or current is None:
                self._settle(current, limits)
                current = self._begin(place)
            self._member(entry, place, current)
        self._settle(current, limits)
        if self._judged is not None and len(self.rows) != len(self._judged.keys):
            self._note("scores", f"{len(self._judged.keys)} rows of scores for {len(self.rows)} samples of {url}")

    def _begin(self, place: Place) -> _Sample:
        row = self._ledger.get(place.index)
        action = KEEP if row is None else str(row["action"])
        self.counts[action] += 1
        if self._judged is not None and self._judged.keys[place.index : place.index + 1] not in ([], [place.key]):
            said = self._judged.keys[place.index]
            self._note("scores", f"sample {place.index} is {place.key!r} in the tar and {said!r} in its scores")
        due = [self._kept] if row is None else [self._aside] if action == QUARANTINE else []
        due += [tar for samples, tar in self._restored if place.index in samples]
        return _Sample(place, row, due, None if row is None else hashlib.sha256())

    def _member(self, entry: Entry, place: Place, sample: _Sample) -> None:
        takers: list[Callable[[memoryview], object]] = [comparison.begin(entry) for comparison in sample.due]
        if sample.digest is not None:
            takers.append(sample.digest.update)
        held = bytearray()
        if self._look:
            takers.append(held.extend)
        for piece in entry.pieces():
            for take in takers:
                take(piece)
        if self._look:
            start = len(held) - -(-entry.size // BLOCK) * BLOCK
            sample.payload.setdefault(place.extension, memoryview(held)[start : start + entry.size])

    def _settle(self, sample: _Sample | None, limits: Limits) -> None:
        """A sample is complete."""
        if sample is None:
            return
        place, row, judged = sample.place, sample.row, self._judged
        if row is not None and (row["sha256"], row["key"]) != (sample.digest.hexdigest(), place.key):
            self._note("ledger", f"sample {place.key!r} is another one than its row in the ledger says")
        uid = ""
        if judged is not None and place.index < len(judged.keys):
            uid = judged.uids[place.index]
            if self._look:
                found = content_of(sample.payload, limits)
                verdict = by_content(judged.actions[place.index], judged.reasons[place.index], found, judged.lists)
                judged.actions[place.index], judged.reasons[place.index] = verdict
        self.rows.append(Row(place.key, uid, row is not None))
