"""What is wrong with one shard and the files beside it, in one pass over the tar.

Of one kind of finding the first hundred are listed and the others counted. Of each image only the header is looked
at. Memory: one sample, and the names in the shard.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import polars as pl

from ecif.errors import BadTarError, InputError, MissingFileError
from ecif.interop import aliases
from ecif.shards import gz, sidecars
from ecif.shards.decode import IMAGE_EXTENSIONS, Refused, Undecodable, open_image, to_pair
from ecif.shards.lint.finding import Finding, Severity
from ecif.shards.lint.repeats import Seen
from ecif.shards.samples import Sample, group
from ecif.shards.sidecars import Row
from ecif.shards.tar import Entry, Limits, Scan, hold, scan
from ecif.sources import Found
from ecif.storage import Storage

MOST_OF_A_KIND = 100
# GNU tar pads to 10 KiB and at its largest usual record to 512 KiB; more zeros than this were not written by a packer.
_MOST_PADDING = 1 << 20
_KINDS = {
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "character device",
    b"4": "block device",
    b"5": "directory",
    b"6": "pipe",
}
_PAX = "PAX header"


def lint_shard(
    shard: Found,
    parquet: str | None,
    stats: str | None,
    storage: Storage,
    limits: Limits,
    caption: str,
) -> ShardLint:
    """Look at one shard and the sidecars that it has; a file that cannot be read is a finding, too.

    Args:
        parquet, stats: URLs of the sidecars that exist.
        caption: `txt`, or `json:FIELD`.
    """
    found = ShardLint(shard, storage, limits, caption)
    found.look(parquet, stats)
    return found


class ShardLint:
    """The findings of one shard while it is being read.

    Attributes:
        seen: what its samples are recognised by elsewhere, in their order.
        samples: how many it holds, as far as it could be read.
    """

    def __init__(self, shard: Found, storage: Storage, limits: Limits, caption: str) -> None:
        self._shard, self._url = shard, shard.url
        self._storage, self._limits, self._caption = storage, limits, caption
        self._found: list[Finding] = []
        self._of_a_kind: Counter[tuple[Severity, str, str]] = Counter()
        self._unusual: dict[str, tuple[Entry, int]] = {}
        self._names: set[str] = set()
        self._keys: set[str] = set()
        self._folded: set[str] = set()
        self._rows: list[Row] = []
        self.seen: list[Seen] = []

    @property
    def samples(self) -> int:
        """See the class."""
        return len(self._rows)

    def look(self, parquet: str | None, stats: str | None) -> None:
        """Read everything."""
        complete = False
        try:
            with self._storage.open(self._url) as stream:
                self._compression(stream)
                entries = scan(stream, self._url, self._limits)
                members = hold(self._watched(entries), self._url, self._limits)
                for item in group(members, self._limits, self._url):
                    if isinstance(item, Sample):
                        self._sample(item)
                complete = True
                self._end(entries)
        except BadTarError as error:
            self._add("error", "bad_tar", error.problem, error.member, error.offset)
        except InputError as error:
            self._add("error", _code(error, "unreadable"), error.problem)
        self._entries()
        if complete and not self._rows:
            self._add("warning", "no_samples", "the tar holds no sample")
        table, statistics = self._table(parquet), self._statistics(stats)
        if complete:
            for found in sidecars.disagreements(self._rows, table, statistics):
                self._add("error", found.code, found.detail, url=parquet if found.code == "parquet_keys" else stats)
            if table is not None:
                self._uids(table, parquet or "")

    def findings(self) -> list[Finding]:
        """All, those of a kind that are too many as one number."""
        left = [
            Finding(severity, code, url, None, None, f"and {n - MOST_OF_A_KIND} more of this kind")
            for (severity, code, url), n in self._of_a_kind.items()
            if n > MOST_OF_A_KIND
        ]
        return self._found + left

    def _add(
        self,
        severity: Severity,
        code: str,
        detail: str,
        member: str | None = None,
        offset: int | None = None,
        url: str | None = None,
    ) -> None:
        kind = (severity, code, url or self._url)
        self._of_a_kind[kind] += 1
        if self._of_a_kind[kind] <= MOST_OF_A_KIND:
            self._found.append(Finding(severity, code, url or self._url, member, offset, detail))

    def _compression(self, stream: BinaryIO) -> None:
        if gz.is_gzip(stream.read(2)):
            detail = "the tar is compressed with gzip: loaders cannot jump in it, and images hardly shrink"
            self._add("warning", "gzip", detail)
        stream.seek(0)

    def _watched(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            if not (entry.is_file or entry.is_global_header):
                self._count(_KINDS.get(entry.kind, f"member of type {entry.kind!r}"), entry)
            if entry.has_pax:
                self._count(_PAX, entry)
            yield entry

    def _count(self, what: str, entry: Entry) -> None:
        first, count = self._unusual.get(what, (entry, 0))
        self._unusual[what] = first, count + 1

    def _entries(self) -> None:
        """Members that readers trip over or leave out, one line for each kind, with the place of the first."""
        for what, (first, count) in self._unusual.items():
            here = f"a {what} ({count} in this tar)"
            if what == _PAX:
                detail = f"{here}: some readers do not understand it; pack with --format=ustar"
                self._add("warning", "pax_headers", detail, first.name, first.offset)
            else:
                detail = f"{here} is of no sample: readers leave it out, and cleaning keeps it as it is"
                self._add("warning", "unusual_member", detail, first.name, first.offset)

    def _sample(self, sample: Sample) -> None:
        first = sample.members[0]
        again = [member for member in sample.members if member.name in self._names]
        self._names.update(member.name for member in sample.members)
        pair = to_pair(sample, self._shard.name, self._caption, self._limits)
        self._rows.append(Row(sample.key, pair.uid))
        self._remember(sample, pair.uid)
        self._case(sample)
        if sample.problem == "duplicate_key" and not again:
            detail = f"the members of {sample.key!r} are not next to each other: readers see two samples"
            self._add("error", "interleaved", detail, first.name, first.offset)
        elif again:
            detail = f"the key {sample.key!r} stands at an earlier sample, too"
            self._add("error", "duplicate_key", detail, again[0].name, again[0].offset)
        elif isinstance(pair, Refused):
            self._add("error", pair.status, f"{sample.key!r}: {pair.detail}", first.name, first.offset)
        else:
            try:
                open_image(pair.image, self._limits)
            except Undecodable as error:
                self._add("error", error.status, f"{sample.key!r}: {error.detail}", first.name, first.offset)

    def _remember(self, sample: Sample, uid: str) -> None:
        """What other samples of the corpus are compared with."""
        members = sample.extensions()
        image = next((members[name] for name in IMAGE_EXTENSIONS if name in members), None)
        digest = b"" if image is None or not image.size else hashlib.sha256(image.data).digest()[:16]
        place = sample.members[0] if image is None else image
        self.seen.append(Seen(sample.key, place.name, place.offset, digest, uid, sample.problem == "duplicate_key"))

    def _case(self, sample: Sample) -> None:
        folded = sample.key.casefold()
        if folded in self._folded and sample.key not in self._keys:
            detail = f"the key {sample.key!r} differs from an earlier one only in upper and lower case"
            self._add("warning", "case_only", detail, sample.members[0].name, sample.members[0].offset)
        self._folded.add(folded)
        self._keys.add(sample.key)

    def _end(self, entries: Scan) -> None:
        """What stands behind the last member."""
        if entries.end_blocks < 2:
            detail = f"{entries.end_blocks} of the 2 end blocks: the tar may have been cut between two members"
            self._add("warning", "no_end_blocks", detail, offset=entries.offset)
        elif entries.trailing is not None and entries.trailing.is_header:
            detail = "more members follow the end of the tar: readers stop before them (tars joined with cat?)"
            self._add("error", "members_after_end", detail, offset=entries.trailing.offset)
        elif entries.trailing is not None:
            detail = "data follow the end of the tar"
            self._add("warning", "trailing_garbage", detail, offset=entries.trailing.offset)
        elif entries.size - entries.offset > _MOST_PADDING:
            zeros = entries.size - entries.offset
            detail = f"{zeros} zero bytes follow the end of the tar: it may be an unfinished download"
            self._add("warning", "long_padding", detail, offset=entries.offset)

    def _table(self, url: str | None) -> pl.DataFrame | None:
        if url is not None:
            try:
                return sidecars.read_parquet(self._storage.read_bytes(url), url)
            except InputError as error:
                self._add("error", _code(error, "bad_parquet"), error.problem, url=url)
        return None

    def _statistics(self, url: str | None) -> dict[str, Any] | None:
        if url is not None:
            try:
                return sidecars.read_stats(self._storage.read_bytes(url), url)
            except InputError as error:
                self._add("error", _code(error, "bad_stats"), error.problem, url=url)
        return None

    def _uids(self, table: pl.DataFrame, url: str) -> None:
        """The uids of the table are those of the samples, where both name them."""
        key, uid = aliases.column("key", table.columns), aliases.column("uid", table.columns)
        if key is None or uid is None:
            return
        said = dict(zip(table[key].cast(pl.String), map(aliases.as_uid, table[uid]), strict=True))
        for seen in self.seen:
            if seen.is_derived(self._shard.name) or (other := said.get(seen.key)) is None or other == seen.uid:
                continue
            detail = f"the table has uid {other!r} for the key {seen.key!r}, its .json member {seen.uid!r} ({url})"
            self._add("error", "parquet_uids", detail, seen.member, seen.offset)


def _code(error: InputError, content: str) -> str:
    """Whether the file is gone, could not be read, or is wrong in its content."""
    if isinstance(error, MissingFileError):
        return "missing_file"
    return content if type(error) is InputError else "unreadable"
