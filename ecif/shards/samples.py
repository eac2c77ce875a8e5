"""Samples: runs of members with the same key, by webdataset's rule, with nothing lost between them.

webdataset drops what belongs to no sample and merges or splits silently where names repeat. Here every member comes
out exactly once and in a way that lets the tar be written again in its order: members that belong to no sample
(directories, metadata, links) come through as themselves, or inside the sample that they stand in the middle of.
The keys of a shard are remembered, which is the only memory that grows with it (about 100 bytes a sample).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ecif.errors import BadTarError
from ecif.shards import names
from ecif.shards.tar import Entry, Limits, Member, Scan, Stretch


@dataclass(slots=True)
class Place:
    """Where a member belongs. Not frozen, because that would triple the cost of making one.

    Attributes:
        index, key: of the sample, as in `Sample`. extension: of the member, in lower case.
        first: whether the sample begins with this member.
    """

    index: int
    key: str
    extension: str
    first: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample.

    Attributes:
        key: as webdataset's `__key__`.
        index: 0-based position among the samples of the tar.
        members: its members, in order.
        problem: None, or `duplicate_key` (the key stood at an earlier, not adjacent sample; that one is fine), or
            `duplicate_member` (two members with the same extension: webdataset raises).
        between: members that belong to no sample but stand between its members.
    """

    key: str
    index: int
    members: tuple[Member, ...]
    problem: str | None
    between: tuple[Member, ...] = ()

    @property
    def in_order(self) -> tuple[Member, ...]:
        """`members` and `between` in the order of the tar."""
        if not self.between:
            return self.members
        return tuple(sorted((*self.members, *self.between), key=lambda member: member.offset))

    def extensions(self) -> dict[str, Member]:
        """Lower-case extension -> member; of several with the same one the first."""
        found: dict[str, Member] = {}
        for member in self.members:
            if (parts := names.split(member.name)) is not None:
                found.setdefault(parts[1], member)
        return found

    def sha256(self) -> str:
        """Of the raw bytes of `members` as they stand in the tar, in hex."""
        digest = hashlib.sha256()
        for member in self.members:
            digest.update(member.raw)
        return digest.hexdigest()


def track(
    entries: Iterable[Entry], limits: Limits = Limits(), url: str = "the tar"
) -> Iterator[tuple[Entry, Place | None]]:
    """Say of each member which sample it belongs to, with the rule and the numbers of `group`, and hold nothing.

    Args:
        entries: of one tar, in its order. limits: only `members_per_sample` counts; bytes are not held.
        url: the name that errors give the tar.

    Returns:
        The members, each before the next one is looked for; None beside those that belong to no sample.

    Raises:
        BadTarError: a sample has more than `limits.members_per_sample` members.
    """
    index, current, members = -1, "", 0
    same = ""  # a name that begins so, with no slash behind it, is of the same sample: `names.split`, but sooner
    for entry in entries:
        name = entry.name
        if same and name.startswith(same) and "/" not in (rest := name[len(same) :]) and entry.is_file:
            key, extension, first = current, rest.lower(), False
        else:
            parts = names.split(name) if entry.is_file else None
            if parts is None:
                yield entry, None
                continue
            key, extension = parts
            first = key != current
            if first:
                index, current, members = index + 1, key, 0
                same = "" if key.startswith("__") else f"{key}."
        members += 1
        if members > limits.members_per_sample:
            raise _too_many(key, limits, url, name, entry.offset)
        yield entry, Place(index, key, extension, first)


def stretches(scan: Scan) -> Iterator[tuple[Stretch, Place | None]]:
    """As `track`, but members of one sample that stand side by side come together, where their headers were read so.

    This is what copying asks for: a few steps for each sample, instead of many for each member.

    Returns:
        Stretches, each before the next one is looked for: of one sample, whose `Place` has no extension and says
        whether the sample begins with them; or of members that belong to none, with None.
    """
    index, current = -1, ""
    for batch in scan.batches():
        if isinstance(batch, Entry):
            parts = names.split(batch.name) if batch.is_file else None
            keys, ends = [None if parts is None else parts[0]], [batch.offset + batch.length]
        else:
            keys, ends = batch.groups()
        begin = batch.offset
        for key, end in zip(keys, ends, strict=True):
            place = None
            if key is not None:
                first = key != current
                if first:
                    index, current = index + 1, key
                place = Place(index, key, "", first)
            yield batch if isinstance(batch, Entry) else Stretch(begin, end - begin, scan), place
            begin = end


def group(members: Iterable[Member], limits: Limits = Limits(), url: str = "the tar") -> Iterator[Sample | Member]:
    """Group consecutive members into samples; memory: one sample and the keys of the shard.

    Args:
        members: of one tar, in its order.
        url: the name that errors give the tar.

    Raises:
        BadTarError: a sample has more than `limits.members_per_sample` members or `limits.sample_bytes` bytes.
    """
    seen: set[str] = set()
    index = 0
    current = _Open()
    for member in members:
        parts = names.split(member.name) if member.is_file else None
        if parts is not None and parts[0] != current.key:
            if current.key is not None:
                yield from current.close(index, seen)
                index += 1
            current = _Open(parts[0])
        if current.key is None:
            yield member
        else:
            current.add(member, None if parts is None else parts[1], limits, url)
    if current.key is not None:
        yield from current.close(index, seen)


class _Open:
    """The sample whose members are still arriving."""

    __slots__ = ("behind", "between", "duplicate", "extensions", "key", "members", "size")

    def __init__(self, key: str | None = None) -> None:
        self.key = key
        self.members: list[Member] = []
        self.extensions: set[str] = set()
        self.duplicate = False
        self.between: list[Member] = []
        self.behind: list[Member] = []  # of no sample; whether they stand inside this one the next member tells
        self.size = 0

    def add(self, member: Member, extension: str | None, limits: Limits, url: str) -> None:
        self.size += len(member.raw)
        if self.size > limits.sample_bytes:
            problem = f"the sample {self.key!r} has more than the limit of {limits.sample_bytes} bytes"
            raise BadTarError(problem, url=url, member=member.name, offset=member.offset)
        if extension is None:
            self.behind.append(member)
            return
        if len(self.members) == limits.members_per_sample:
            raise _too_many(self.key, limits, url, member.name, member.offset)
        self.between += self.behind
        self.behind = []
        self.duplicate |= extension in self.extensions
        self.extensions.add(extension)
        self.members.append(member)

    def close(self, index: int, seen: set[str]) -> Iterator[Sample | Member]:
        assert self.key is not None
        problem = "duplicate_key" if self.key in seen else "duplicate_member" if self.duplicate else None
        seen.add(self.key)
        yield Sample(self.key, index, tuple(self.members), problem, tuple(self.between))
        yield from self.behind


def _too_many(key: str | None, limits: Limits, url: str, member: str, offset: int) -> BadTarError:
    problem = f"the sample {key!r} has more than {limits.members_per_sample} members; are the keys right?"
    return BadTarError(problem, url=url, member=member, offset=offset)
