"""Which shards have arrived: what lies under the sources, less what the output has finished.

Looking asks the storage and nobody else, so it finds what an event that was lost would have said, and it finds nothing
twice: a shard is new until an inventory lists it, and unfinished until it has a manifest (without a policy: a table of
scores). The price is a listing of the sources and two of the output for each look; events shorten the wait, they
never replace the look.

An event comes from whoever may emit, so what it names is only ever compared: `admit` takes a prefix when it lies
below an allowed one. Both are normalised and end in `/`, so that neither `..` nor `s3://b/raw-private` gets through
`s3://b/raw`.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ecif import inventory, manifest
from ecif.errors import UsageError
from ecif.layout import Layout
from ecif.settings import Settings
from ecif.sources import TARS, Found, expand, sidecars_of
from ecif.storage import FileInfo, Storage, folder_of
from ecif.storage.urls import resolved

# A key of S3 has 1,024 bytes; what is longer is no prefix of anything.
LONGEST_PREFIX = 4_096


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What a look has found.

    Attributes:
        out: the output.
        found: shards under the sources.
        new: those that no inventory of the output lists, by name.
        unfinished: those that are listed and not finished, by name.
        decided: the output is bound to a decision, so that a run over a part of the corpus can follow it.
    """

    out: str
    found: int
    new: tuple[Found, ...]
    unfinished: tuple[Found, ...]
    decided: bool

    @property
    def wanted(self) -> tuple[Found, ...]:
        """All that is to be done."""
        return (*self.new, *self.unfinished)

    def prefix(self) -> str | None:
        """The one prefix that holds all that is to be done; None when the whole corpus is to be looked at.

        A run over a prefix makes no cut, so before the output has one the whole corpus is what it takes.
        """
        return shared_prefix([shard.url for shard in self.wanted]) if self.decided and self.wanted else None

    def digest(self) -> str:
        """Identity of what is to be done, and where; 16 hex digits."""
        lines = sorted(f"{shard.name}\t{shard.url}\n" for shard in self.wanted)
        return hashlib.sha256(f"{self.out}\n{''.join(lines)}".encode()).hexdigest()[:16]

    def headline(self) -> str:
        """What was found, in a sentence."""
        text = f"{self.found:,} shards, {len(self.new):,} of them new"
        return text + (f", {len(self.unfinished):,} begun and not finished" if self.unfinished else "")


def look(sources: Sequence[str], settings: Settings) -> Arrivals:
    """Compare the sources with the inventory and the finished shards of the output. Writes nothing.

    Raises:
        UsageError: a source or the output is not accepted, or matches nothing.
        MissingFileError: a source does not exist.
        StorageError: it cannot be listed.
    """
    storage = settings.storage()
    layout = Layout(storage.check(Layout(settings.out).root))
    shards = expand(sources, storage).shards
    listed: Collection[str] = ()
    if next(iter(storage.scan(layout.inventories(), ".json")), None) is not None:
        listed = inventory.load(layout, storage).by_name()
    done = manifest.done(layout, storage) if settings.has_policy else _scored(layout, storage)
    return Arrivals(
        out=layout.root,
        found=len(shards),
        new=tuple(shard for shard in shards if shard.name not in listed),
        unfinished=tuple(shard for shard in shards if shard.name in listed and shard.name not in done),
        decided=not settings.has_policy or storage.exists(layout.applied()),
    )


def steady(
    sources: Sequence[str],
    settings: Settings,
    quiet: float,
    longest: float,
    sleep: Callable[[float], None] = time.sleep,
) -> Arrivals:
    """Look until nothing has changed among the new shards for `quiet` seconds, `longest` seconds at most.

    An inventory is never rewritten: a tar that is taken in half copied, or before its sidecars, stays so. Object
    stores show whole objects, but the sidecars come after the tar there, too.

    Raises:
        EcifError: what `look` raises.
    """
    found = look(sources, settings)
    storage = settings.storage()
    before = _marks(found, storage)
    waited = 0.0
    while before and waited < longest:
        sleep(quiet)
        waited += max(quiet, 1e-3)
        found = look(sources, settings)
        now = _marks(found, storage)
        if now == before:
            break
        before = now
    return found


def as_prefix(url: str) -> str:
    """The one spelling of a prefix: normalised, ending in `/`; for a tar the directory that it lies in.

    Raises:
        UsageError: the URL is not accepted.
    """
    place = resolved(url)
    return (folder_of(place) if place.endswith(TARS) else place).rstrip("/") + "/"


def admit(prefix: object, allowed: Sequence[str]) -> str:
    """The prefix that an event names, as `as_prefix` spells it, if it lies below one of `allowed`.

    Raises:
        UsageError: it does not, or is not the URL of a prefix at all.
    """
    if not isinstance(prefix, str) or not 0 < len(prefix) <= LONGEST_PREFIX:
        raise UsageError(f"an event names a prefix by its URL, not by {_shown(prefix)}")
    place = as_prefix(prefix)
    roots = [as_prefix(root) for root in allowed]
    if not any(place.startswith(root) for root in roots):
        raise UsageError(f"{_shown(prefix)} is not under an allowed prefix ({', '.join(roots)})")
    return place


def shared_prefix(urls: Sequence[str]) -> str:
    """The longest prefix, ending in `/`, that holds all of these normalised URLs of tars.

    Raises:
        UsageError: there is none: they lie in several storages or buckets.
    """
    first, *others = (folder.split("/") for folder in sorted({folder_of(url) for url in urls}))
    for other in others:
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, other, strict=False)))
        first = first[:same]
    if "://" in urls[0] and len(first) < 3:
        raise UsageError(f"{urls[0]} and others lie in several storages or buckets; watch each by itself")
    return "/".join(first).rstrip("/") + "/"


def fewest(prefixes: Collection[str], allowed: Sequence[str], most: int) -> dict[str, str]:
    """What is to be named instead of each of many prefixes, so that few names are left.

    Args:
        prefixes: as `admit` returns them. allowed: what they were admitted by.
        most: where more than so many lie under one allowed prefix, that one stands for them all.

    Returns:
        by prefix: itself, another one that holds it, or the allowed one.
    """
    stands: dict[str, str] = {}
    roots = sorted((as_prefix(root) for root in allowed), key=len)
    by_root: dict[str, list[str]] = {}
    for prefix in sorted(prefixes):
        by_root.setdefault(next(root for root in roots if prefix.startswith(root)), []).append(prefix)
    for root, below in by_root.items():
        kept: list[str] = []
        for prefix in below:  # in order, so what holds others comes before them
            if kept and prefix.startswith(kept[-1]):
                stands[prefix] = kept[-1]
            else:
                kept.append(prefix)
                stands[prefix] = prefix
        if len(kept) > most:
            stands |= dict.fromkeys(below, root)
    return stands


def _marks(found: Arrivals, storage: Storage) -> dict[str, FileInfo]:
    return storage.lookup([url for shard in found.new for url in (shard.url, *sidecars_of(shard.url))])


def _scored(layout: Layout, storage: Storage) -> set[str]:
    folder = storage.check(layout.score_keys()) + "/"
    names = (file.url.removeprefix(folder).removesuffix(".parquet") for file in storage.scan(folder, ".parquet"))
    return {name.partition("/")[2] for name in names}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
