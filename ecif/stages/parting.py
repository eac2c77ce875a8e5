"""One pass over a tar that parts its samples: those that stay, those set aside, those that go.

Members flow into the new tars as they are read. What happens to a sample is known at its first member, because the
score table says it; only where a list names URLs or image digests are the members of one sample held until all are
there. Members that belong to no sample go where the samples that stay go, in their places.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import polars as pl

from ecif.errors import BadTarError, InputError
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.lists import Lists
from ecif.manifest import FileMark
from ecif.shards.headers import BLOCK
from ecif.shards.samples import Place, stretches, track
from ecif.shards.tar import Entry, Limits, Stretch, TarWriter, scan
from ecif.storage import Storage, Writer
from ecif.verdicts import DROP, KEEP, QUARANTINE, by_content, content_of

# What is only copied is not held, so that its size does not matter.
ANY = Limits(members_per_sample=sys.maxsize)


class Parting:
    """The tars that one shard becomes; they are published by `finish` and leave nothing without it.

    Args:
        judged: what `verdicts.judge` says of the samples, in order.
        limits: what may be held in memory where a list has to look into the samples.
        stack: is left when the tars are finished, or not wanted any more.
        tar: whether the samples that stay are written, too.

    Attributes:
        counts: samples by action, as found in the tar.
        hashes: SHA-256 of the raw members of the samples that go, in order.
    """

    def __init__(
        self,
        shard: Shard,
        judged: pl.DataFrame,
        lists: Lists,
        limits: Limits,
        layout: Layout,
        storage: Storage,
        stack: ExitStack,
        *,
        tar: bool = True,
    ) -> None:
        self._shard, self._judged, self._lists, self._limits, self._storage = shard, judged, lists, limits, storage
        self._keys: list[str] = judged["key"].to_list()
        self._actions: list[str] = judged["action"].to_list()
        self._reasons: list[str | None] = judged["reason"].to_list()
        self._samples, self._tar = 0, tar
        self._stayed: str | None = None  # key of the last sample that stays
        self.counts = dict.fromkeys((KEEP, DROP, QUARANTINE), 0)
        self.hashes: list[str] = []
        # Where no sample stays there is no tar, not even of the members that belong to none.
        may_stay = tar and (KEEP in self._actions or (lists.by_content and bool(self._actions)))
        self._kept = Growing(stack.enter_context(storage.create(layout.tar(shard.name)))) if may_stay else None
        self._aside: Growing | None = None
        if QUARANTINE in self._actions:
            self._aside = Growing(stack.enter_context(storage.create(layout.quarantine(shard.name))))

    def run(self) -> None:
        """Read the tar to its end.

        Raises:
            InputError: it changed since the inventory, or its scores are those of another tar.
            BadTarError: it is damaged, or a sample is too large to look into.
            StorageError: something cannot be read or written.
        """
        shard = self._shard
        with self._storage.open(shard.url, expect=shard.info) as source:
            members = scan(source, shard.url, self._limits)
            if self._lists.by_content:
                self._held(track(self._mobile(members), ANY, shard.url))
            else:
                self._flowing(stretches(members))
        if self._samples != len(self._keys):
            raise self._not_its_scores(f"it holds {self._samples} samples, its score table {len(self._keys)}")

    def verdicts(self) -> pl.DataFrame:
        """What `judged` says, with what the samples themselves said."""
        return self._judged.with_columns(
            action=pl.Series(self._actions, dtype=pl.String), reason=pl.Series(self._reasons, dtype=pl.String)
        )

    def finish(self) -> dict[str, FileMark]:
        """Publish the tars that hold a sample; their marks by kind of file."""
        tars = {("tar", KEEP): self._kept, ("quarantine", QUARANTINE): self._aside}
        return {kind: tar.finish() for (kind, action), tar in tars.items() if tar is not None and self.counts[action]}

    def _mobile(self, entries: Iterable[Entry]) -> Iterable[Entry]:
        """The members, which all have to be such as can be packed where that is what follows."""
        return entries if self._tar else without_global_headers(entries, self._shard.url)

    def _flowing(self, entries: Iterable[tuple[Stretch, Place | None]]) -> None:
        kept = None if self._kept is None else self._kept.tar
        action, digest = KEEP, None
        for entry, place in entries:
            if place is None:
                if not self._tar and isinstance(entry, Entry):
                    refuse_global_header(entry, self._shard.url)
                if kept is not None:
                    kept.add(entry)
                continue
            if place.first:
                if digest is not None:
                    self.hashes.append(digest.hexdigest())
                self._check(place)
                action = self._actions[place.index]
                self._count(place, action)
                digest = None if action == KEEP else hashlib.sha256()
            if kept is not None and digest is None:
                kept.add(entry)
            elif self._aside is not None and action == QUARANTINE:
                self._aside.add(entry, digest)
            elif digest is not None:
                for piece in entry.pieces():
                    digest.update(piece)
        if digest is not None:
            self.hashes.append(digest.hexdigest())

    def _held(self, entries: Iterable[tuple[Entry, Place | None]]) -> None:
        held: list[_Member] = []
        size = 0
        for entry, place in entries:
            if place is not None and place.first:
                self._settle(held)
                self._check(place)
                held, size = [], 0
            size += entry.length
            if size > self._limits.sample_bytes:
                problem = f"a sample of more than {self._limits.sample_bytes} bytes cannot be compared with the lists"
                raise BadTarError(problem, url=self._shard.url, member=entry.name, offset=entry.offset)
            held.append(_Member(place, b"".join(entry.pieces()), entry.size))
            if held[0].place is None:  # before the first sample
                self._settle(held)
                held, size = [], 0
        self._settle(held)

    def _settle(self, held: list[_Member]) -> None:
        """Look into a sample that is complete, and write it; members of no sample may stand in and behind it."""
        payload: dict[str, memoryview] = {}
        action, digest = KEEP, hashlib.sha256()
        first = held[0].place if held else None
        if first is not None:
            for member in held:
                if member.place is not None:
                    payload.setdefault(member.place.extension, member.data)
                    digest.update(member.raw)
            found = content_of(payload, self._limits)
            action, reason = by_content(self._actions[first.index], self._reasons[first.index], found, self._lists)
            self._actions[first.index], self._reasons[first.index] = action, reason
            self._count(first, action)
            if action != KEEP:
                self.hashes.append(digest.hexdigest())
        for member in held:
            to = self._kept if member.place is None or action == KEEP else self._aside if action == QUARANTINE else None
            if to is not None:
                to.tar.write(member.raw)

    def _check(self, place: Place) -> None:
        """The sample that begins has to be the next row of the score table."""
        if place.index >= len(self._keys):
            raise self._not_its_scores(f"it holds more samples than the {len(self._keys)} of its score table")
        if place.key != self._keys[place.index]:
            problem = f"sample {place.index} is {place.key!r} here and {self._keys[place.index]!r} in its score table"
            raise self._not_its_scores(problem)
        self._samples += 1

    def _count(self, place: Place, action: str) -> None:
        """Note what becomes of a sample; two that stay must not become one.

        Raises:
            InputError: all that stood between it and a sample of the same key goes, and readers would see one sample.
        """
        self.counts[action] += 1
        if action != KEEP:
            return
        if place.key == self._stayed:
            problem = (
                f"the key {place.key!r} is repeated, and without what stands between, sample {place.index} and the one "
                "before would be read as one; repair the input, or give --unscored drop, which drops repeated keys"
            )
            raise InputError(f"{problem}, with a new --out", url=self._shard.url)
        self._stayed = place.key

    def _not_its_scores(self, problem: str) -> InputError:
        return InputError(
            f"{problem}: they do not belong together; score it again into a new --out", url=self._shard.url
        )


def without_global_headers(entries: Iterable[Entry], url: str) -> Iterator[Entry]:
    """The members of a tar whose survivors are packed with those of others.

    Raises:
        BadTarError: one is a global PAX header, which would hold for the members of the others, too.
    """
    for entry in entries:
        refuse_global_header(entry, url)
        yield entry


def refuse_global_header(entry: Entry, url: str) -> None:
    """Raise where a member would hold for the members of others.

    Raises:
        BadTarError: it is a global PAX header.
    """
    if entry.is_global_header:
        problem = "a global PAX header would hold for the members of other shards; use a new --out without --repack"
        raise BadTarError(problem, url=url, member=entry.name, offset=entry.offset)


@dataclass(frozen=True, slots=True)
class _Member:
    """A member in memory: where it belongs, all its bytes, and the size of its data."""

    place: Place | None
    raw: bytes
    size: int

    @property
    def data(self) -> memoryview:
        start = len(self.raw) - -(-self.size // BLOCK) * BLOCK
        return memoryview(self.raw)[start : start + self.size]


class Growing:
    """A tar that is being written."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.tar = TarWriter(self)
        self._digest: Any = None

    def write(self, data: bytes | memoryview) -> None:
        """Take a piece of the tar."""
        if self._digest is not None:
            self._digest.update(data)
        self._writer.write(data)

    def add(self, entry: Stretch, digest: Any) -> None:
        """Append members, and feed their bytes to `digest`."""
        self.tar.flush()
        self._digest = digest
        self.tar.add(entry)
        self.tar.flush()
        self._digest = None

    def finish(self) -> FileMark:
        """End and publish it."""
        self.tar.end()
        published = self._writer.finish()
        return FileMark(published.size, published.sha256)
