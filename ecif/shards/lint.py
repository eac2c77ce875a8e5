"""What is wrong with shards, found before anything is computed and without decoding an image.

Everything that other tools swallow, merge or crash on: gaps in the numbering, interleaved samples, repeated names,
cut tars, missing captions, sidecars that belong to another tar. An error is something that costs samples or breaks
readers, a warning is something to know. One pass over each tar; of each image only the header is looked at, which is
what makes it faster than scoring. Of one kind of finding a shard lists the first hundred and counts the others.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Literal

import polars as pl

from ecif.errors import BadTarError, InputError, MissingFileError
from ecif.progress import Progress, Silent
from ecif.shards import sidecars
from ecif.shards.decode import Refused, Undecodable, open_image, to_pair
from ecif.shards.headers import BLOCK, is_header
from ecif.shards.samples import Sample, group
from ecif.shards.sidecars import Row
from ecif.shards.tar import Limits, Member, TarReader
from ecif.sources import Expansion
from ecif.storage import Storage

Severity = Literal["error", "warning"]

MOST_OF_A_KIND = 100
_READ_BYTES = 2048 * BLOCK
# GNU tar pads to 10 KiB and at its largest usual record to 512 KiB; more zeros than this were not written by a packer.
_MOST_PADDING = 1 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        severity: `error` or `warning`. code: for machines; those of samples are the statuses of a score table.
        url: the file. member, offset: the tar member and the byte where it begins, when one is meant.
        detail: for people.
    """

    severity: Severity
    code: str
    url: str
    member: str | None
    offset: int | None
    detail: str

    def __str__(self) -> str:
        member = "" if self.member is None else f", member {self.member!r}"
        offset = "" if self.offset is None else f", offset {self.offset}"
        return f"{self.severity}: {self.url}{member}{offset}: {self.code}: {self.detail}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Lint:
    """All findings in the order of the shards, and how much was read."""

    findings: tuple[Finding, ...]
    shards: int
    samples: int

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        counts = dict(sorted(Counter(finding.code for finding in self.findings).items()))
        return {
            "shards": self.shards,
            "samples": self.samples,
            "errors": self.errors,
            "counts": counts,
            "findings": [finding.to_json() for finding in self.findings],
        }


def lint(expansion: Expansion, storage: Storage, caption: str, progress: Progress = Silent()) -> Lint:
    """Look at all shards; a file that cannot be read is a finding, too.

    Args:
        caption: `txt`, or `json:FIELD`.
    """
    findings = list(_numbering(expansion))
    beside = {found.url: sidecars.urls(found.url) for found in expansion.shards}
    there = storage.lookup([url for pair in beside.values() for url in pair])
    samples = 0
    progress.stage("lint", len(expansion.shards), "shards")
    try:
        for found in expansion.shards:
            parquet, stats = (url if url in there else None for url in beside[found.url])
            shard = _Shard(found.url, storage, Limits(), caption)
            shard.look(parquet, stats)
            findings += shard.findings()
            samples += len(shard.rows)
            progress.advance()
    finally:
        progress.end()
    return Lint(tuple(findings), len(expansion.shards), samples)


def lint_shard(
    shard_url: str, parquet_url: str | None, stats_url: str | None, storage: Storage, limits: Limits, caption: str
) -> list[Finding]:
    """Look at one shard and the sidecars that it has."""
    shard = _Shard(shard_url, storage, limits, caption)
    shard.look(parquet_url, stats_url)
    return shard.findings()


class _Shard:
    """The findings of one shard while it is being read."""

    def __init__(self, url: str, storage: Storage, limits: Limits, caption: str) -> None:
        self._url, self._storage, self._limits, self._caption = url, storage, limits, caption
        self._found: list[Finding] = []
        self._of_a_kind: Counter[tuple[Severity, str, str]] = Counter()
        self._pax = 0
        self._first_pax: Member | None = None
        self._names: set[str] = set()
        self.rows: list[Row] = []

    def look(self, parquet: str | None, stats: str | None) -> None:
        """Read everything."""
        complete = False
        try:
            with self._storage.open(self._url) as stream:
                reader = TarReader(stream, self._url, self._limits)
                for item in group(self._watched(reader), self._limits, self._url):
                    if isinstance(item, Sample):
                        self._sample(item)
                complete = True
                self._end(reader, stream)
        except BadTarError as error:
            self._add("error", "bad_tar", error.problem, error.member, error.offset)
        except InputError as error:
            self._add("error", _code(error, "unreadable"), error.problem)
        if self._first_pax is not None:
            detail = f"{self._pax} PAX headers, which some readers do not understand; pack with --format=ustar"
            self._add("warning", "pax_headers", detail, self._first_pax.name, self._first_pax.offset)
        if complete and not self.rows:
            self._add("warning", "no_samples", "the tar holds no sample")
        table, statistics = self._table(parquet), self._statistics(stats)
        if complete:
            for found in sidecars.disagreements(self.rows, table, statistics):
                self._add("error", found.code, found.detail, url=parquet if found.code == "parquet_keys" else stats)

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

    def _watched(self, members: Iterable[Member]) -> Iterator[Member]:
        for member in members:
            if member.has_pax:
                self._pax += 1
                self._first_pax = self._first_pax or member
            yield member

    def _sample(self, sample: Sample) -> None:
        first = sample.members[0]
        again = [member for member in sample.members if member.name in self._names]
        self._names.update(member.name for member in sample.members)
        pair = to_pair(sample, self._url, self._caption, self._limits)
        self.rows.append(Row(sample.key, pair.uid))
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

    def _end(self, reader: TarReader, stream: BinaryIO) -> None:
        """What stands behind the last member."""
        if reader.end_blocks < 2:
            detail = f"{reader.end_blocks} of the 2 end blocks: the tar may have been cut between two members"
            self._add("warning", "no_end_blocks", detail, offset=reader.offset)
            return
        offset = zeros = reader.offset
        while block := stream.read(_READ_BYTES):
            if (text := block.lstrip(b"\0")) != b"":
                start = offset + len(block) - len(text)
                header = block[(start - offset) // BLOCK * BLOCK :][:BLOCK]
                if is_header(header):
                    detail = "more members follow the end of the tar: readers stop before them (tars joined with cat?)"
                    self._add("error", "members_after_end", detail, offset=start // BLOCK * BLOCK)
                else:
                    self._add("warning", "trailing_garbage", "data follow the end of the tar", offset=start)
                return
            offset += len(block)
        if offset - zeros > _MOST_PADDING:
            detail = f"{offset - zeros} zero bytes follow the end of the tar: it may be an unfinished download"
            self._add("warning", "long_padding", detail, offset=zeros)

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


def _code(error: InputError, content: str) -> str:
    """Whether the file is gone, could not be read, or is wrong in its content."""
    if isinstance(error, MissingFileError):
        return "missing_file"
    return content if type(error) is InputError else "unreadable"


def _numbering(expansion: Expansion) -> Iterator[Finding]:
    """Members of brace ranges that do not exist, and jumps between the numbers of shards in one directory."""
    for url in expansion.missing:
        yield Finding("warning", "missing_shard", url, None, None, "belongs to the range that was asked for; not there")
    missing = {url.rpartition("/")[2].removesuffix(".tar") for url in expansion.missing}
    series: dict[tuple[str, int], list[tuple[int, str]]] = {}
    for found in expansion.shards:
        if match := re.search(r"\d+$", found.name):
            series.setdefault((found.name[: match.start()], len(match[0])), []).append((int(match[0]), found.url))
    for (name, width), numbers in series.items():
        prefix = name.rpartition("/")[2]
        for (before, _), (after, url) in itertools.pairwise(sorted(numbers)):
            between = range(before + 1, after)
            # Those that a range names one by one were reported above.
            known = len(between) <= len(missing) and all(f"{prefix}{n:0{width}d}" in missing for n in between)
            if between and not known:
                ends = f"between {prefix}{before:0{width}d} and {prefix}{after:0{width}d}"
                yield Finding("warning", "numbering_gap", url, None, None, f"{len(between)} shards are missing {ends}")
