"""What people type, turned into shards with names.

Accepted: a tar, a brace range (`{00000..01242}.tar`), a glob, a directory, a `.txt` file with one URL per line, and
several of these joined by `::`. A shard's name is its path below its source's root: the literal directory in
front of the first brace or wildcard. The name decides where everything about the shard is stored, so it must not
depend on which other shards exist today; gaps of a range are counted, not fatal.

A listing of a million shards is thousands of requests: what it says about tags and sidecars is not asked for again.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import braceexpand
from fsspec.registry import known_implementations

from ecif.errors import MissingFileError, UsageError
from ecif.layout import META
from ecif.storage import FileInfo, Storage, folder_of, is_remote, join
from ecif.storage.urls import READ_ONLY, normalise, scheme_of

# Plain and compressed with gzip; what is written is always a plain tar.
TARS = (".tar", ".tar.gz", ".tgz")
SIDECARS = (".parquet", "_stats.json")
# A corpus of 12.8 billion pairs has 1.28 million shards; a longer range is a slip of the keyboard.
MOST_URLS = 5_000_000
# Shards looked up at a time on an object store, whose listings begin anywhere; a disk's directory is read whole.
_AT_A_TIME = 50_000
_WILD = re.compile(r"[*?\[]")
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?\}")
_PATTERN = re.compile(r"[{*?\[]")


@dataclass(frozen=True, slots=True)
class Found:
    """A shard: its name (relative path below the source's root, without its ending) and its normalised URL."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class Listed:
    """What a listing told about a shard: bytes and tag of its tar, and which sidecars lie beside it."""

    size: int
    etag: str
    parquet: bool
    stats: bool


@dataclass(frozen=True, slots=True)
class Expansion:
    """The shards, sorted by name, and the URLs of members of brace ranges that do not exist.

    `listed` holds, by URL, what finding them told; shards that were named singly or matched a pattern are not in it.
    """

    shards: tuple[Found, ...]
    missing: tuple[str, ...]
    listed: Mapping[str, Listed] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class _Source:
    text: str
    root: str
    urls: tuple[str, ...]
    missing: tuple[str, ...] = ()
    listed: Mapping[str, Listed] = field(default_factory=dict)


def without_ending(path: str) -> str:
    """A path or URL without `.tar`, `.tar.gz` or `.tgz`."""
    return next((path.removesuffix(ending) for ending in TARS if path.endswith(ending)), path)


def sidecars_of(tar: str) -> tuple[str, str]:
    """Where the sidecars of a tar lie if there are any: parquet and statistics."""
    stem = without_ending(tar)
    return f"{stem}{SIDECARS[0]}", f"{stem}{SIDECARS[1]}"


def look_up(tars: Sequence[str], storage: Storage) -> dict[str, Listed]:
    """Those of `tars` (URLs as `Storage.check` returns them) that exist; one listing per directory where that pays."""
    listed: dict[str, Listed] = {}
    step = _AT_A_TIME if tars and is_remote(tars[0]) else max(1, len(tars))
    ordered = sorted(tars)  # so that each part is a part of a listing
    for part in (ordered[start : start + step] for start in range(0, len(tars), step)):
        there = storage.lookup([url for tar in part for url in (tar, *sidecars_of(tar))])
        listed |= _listed((there[tar] for tar in part if tar in there), there)
    return listed


def _listed(tars: Iterable[FileInfo], there: Container[str]) -> dict[str, Listed]:
    return {tar.url: Listed(tar.size, tar.etag, *(url in there for url in sidecars_of(tar.url))) for tar in tars}


def expand(sources: Sequence[str], storage: Storage) -> Expansion:
    """Find the shards.

    When the sources have different roots, names begin with the source's name: the last directory of its root, or as
    many as tell the roots apart.

    Raises:
        UsageError: nothing was given or matched, a file is not a tar, a URL is not accepted or comes twice, or
            two URLs would get the same name.
        MissingFileError: a file that was named, or every member of a brace range, does not exist.
    """
    parts = [part for text in sources for part in _split(text)]
    if not parts:
        raise UsageError("no input: name tars, a brace range, a glob, a directory or a list of URLs")
    found = [source for part in parts for source in _sources(part, storage)]
    prefixes = _prefixes({source.root for source in found})
    shards: dict[str, Found] = {}
    urls: dict[str, str] = {}
    for source in found:
        for url in source.urls:
            name = _name(url, source.root, prefixes[source.root])
            if url in urls:
                raise UsageError(f"{url} is named twice: by {urls[url]!r} and by {source.text!r}")
            if name in shards:
                raise UsageError(f"{shards[name].url} and {url} would both be shard {name!r}; clean them separately")
            urls[url] = source.text
            shards[name] = Found(name, url)
    missing = {url for source in found for url in source.missing} - set(urls)
    listed = found[0].listed if len(found) == 1 else {url: it for source in found for url, it in source.listed.items()}
    return Expansion(tuple(shards[name] for name in sorted(shards)), tuple(sorted(missing)), listed)


def _split(text: str) -> list[str]:
    parts = text.split("::")
    for part in parts:
        if not part.strip():
            raise UsageError(f"{text!r}: an empty source")
        if len(parts) > 1 and part in known_implementations:
            raise UsageError(f"{text!r}: chained URLs such as {part}::... are not opened")
    return parts


def _sources(part: str, storage: Storage) -> list[_Source]:
    return [_from_list(part, storage)] if part.endswith(".txt") else [_one(part, storage)]


def _one(text: str, storage: Storage) -> _Source:
    url = normalise(text)  # what it stands for is checked against the allow-list, one by one
    _without_query(url)
    if _PATTERN.search(url) and (is_remote(url) or not os.path.isfile(url)):
        root = folder_of(url[: _first(url) + 1])
        return _braces(text, url, root, storage) if "{" in url else _glob(text, [url], root, storage)
    if url.endswith(TARS):
        storage.info(url)
        return _Source(text, folder_of(url), (url,))
    return _folder(text, url, storage)


def _without_query(url: str) -> None:
    if scheme_of(url) in READ_ONLY and (query := re.search(r"[?#]", url)):
        shown = f"{url[: query.end()]}..."
        raise UsageError(f"{shown!r}: a query would be written into the inventory, with its secrets; download first")


def _first(url: str) -> int:
    match = _PATTERN.search(url)
    assert match is not None
    return match.start()


def _braces(text: str, url: str, root: str, storage: Storage) -> _Source:
    # braceexpand holds every range in memory before it gives the first member.
    longest = max((abs(int(b) - int(a)) // max(1, int(step or 1)) for a, b, step in _RANGE.findall(url)), default=0)
    if longest >= MOST_URLS:
        raise UsageError(f"{text!r} stands for more than {MOST_URLS:,} URLs")
    try:
        members = list(itertools.islice(braceexpand.braceexpand(url, escape=False), MOST_URLS + 1))
    except ValueError as error:
        raise UsageError(f"{text!r}: {error}") from error
    if len(members) > MOST_URLS:
        raise UsageError(f"{text!r} stands for more than {MOST_URLS:,} URLs")
    if any(_WILD.search(member) for member in members):
        return _glob(text, members, root, storage)
    _only_tars(text, members)
    members = [storage.check(member) for member in members]
    if len(set(members)) < len(members):
        raise UsageError(f"{text!r} names a file twice")
    there = look_up(members, storage)
    if not there:
        raise MissingFileError(f"none of the {len(members)} files of {text!r} exists", url=members[0])
    return _Source(text, root, tuple(there), tuple(member for member in members if member not in there), there)


def _glob(text: str, patterns: Iterable[str], root: str, storage: Storage) -> _Source:
    urls = [file.url for pattern in patterns for file in storage.glob(pattern)]
    if not urls:
        raise UsageError(f"{text!r} matches no file")
    _only_tars(text, urls)
    return _Source(text, root, tuple(urls))


def _folder(text: str, url: str, storage: Storage) -> _Source:
    if scheme_of(url) in READ_ONLY:
        raise UsageError(f"{text!r}: from a web server only tars are read, named one by one or by a brace range")
    # A former output may be cleaned again: what lies below its _ecif is not the corpus.
    own = join(storage.check(url), META) + "/"
    tars, others = list[FileInfo](), set[str]()
    for file in storage.scan(url):
        if file.url.endswith(TARS) and not file.url.startswith(own):
            tars.append(file)
        elif file.url.endswith(SIDECARS) and not file.url.startswith(own):
            others.add(file.url)
    if tars:
        return _Source(text, url, tuple(tar.url for tar in tars), listed=_listed(tars, others))
    if storage.exists(url):
        raise UsageError(f"{text!r} is not a tar; only .tar, .tar.gz, .tgz, directories and .txt lists are read")
    if storage.list(url) or (not is_remote(url) and os.path.isdir(url)):
        raise UsageError(f"{text!r} is a directory without any tar below it")
    raise MissingFileError("there is no such file or directory", url=url)


def _from_list(text: str, storage: Storage) -> _Source:
    """A file with one URL per line; relative paths start at the file's directory, `#` begins a comment line.

    Names are relative to the directory that all of its URLs share.
    """
    try:
        lines = storage.read_bytes(text).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{text!r} is not a list of URLs in UTF-8: {error}") from error
    entries = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not entries:
        raise UsageError(f"{text!r} names no file")
    urls: list[str] = []
    missing: list[str] = []
    roots: list[str] = []
    plain: list[str] = []
    for entry in entries:
        if "::" in entry or entry.endswith(".txt"):
            raise UsageError(f"{text!r}: {entry!r} is not the URL of a tar")
        if not is_remote(entry) and not os.path.isabs(entry) and not entry.lower().startswith("file:"):
            entry = join(folder_of(normalise(text)), entry)
        if entry.endswith(TARS) and not _PATTERN.search(entry):
            _without_query(entry)
            plain.append(storage.check(entry))
            continue
        source = _one(entry, storage)
        urls += source.urls
        missing += source.missing
        roots.append(source.root)
    there = storage.lookup(plain)
    for url in plain:
        if url not in there:
            raise MissingFileError(f"does not exist; {text!r} names it", url=url)
    roots += [folder_of(url) for url in plain]
    return _Source(text, _shared_root(text, roots), tuple(plain + urls), tuple(missing))


def _shared_root(text: str, roots: Sequence[str]) -> str:
    first, *others = ([*root.split("/")] for root in sorted(set(roots)))
    length = len(first)
    for other in others:
        length = next((i for i, (a, b) in enumerate(zip(first, other, strict=False)) if a != b), len(other))
        first = first[: min(length, len(first))]
    shared = "/".join(first)
    if is_remote(roots[0]) and len(first) < 3:
        raise UsageError(f"{text!r} names files of several storages or buckets; use one list for each")
    return shared or "/"


def _only_tars(text: str, urls: Iterable[str]) -> None:
    for url in urls:
        if not url.endswith(TARS):
            raise UsageError(f"{text!r} names {url}: only tars are read; end the pattern with .tar, .tar.gz or .tgz")


def _name(url: str, root: str, prefix: str) -> str:
    relative = without_ending(url.removeprefix(root).lstrip("/"))
    if not relative or relative.endswith("/"):
        raise UsageError(f"{url}: a tar without a name")
    name = f"{prefix}/{relative}" if prefix else relative
    if name.startswith(META):
        raise UsageError(f"{url} would be shard {name!r}: names that begin with {META} are taken by the output")
    return name


def _prefixes(roots: set[str]) -> dict[str, str]:
    """For each root the shortest tail of directories that no other root has; empty when there is only one root."""
    if len(roots) == 1:
        return dict.fromkeys(roots, "")
    pieces = {root: [part for part in root.partition("://")[2 if is_remote(root) else 0].split("/") if part] or ["root"]
              for root in roots}  # fmt: skip
    for length in range(1, max(map(len, pieces.values())) + 1):
        tails = {root: "/".join(parts[-length:]) for root, parts in pieces.items()}
        if len(set(tails.values())) == len(roots):
            return tails
    raise UsageError(f"the sources {', '.join(sorted(roots))} cannot be told apart by name; clean them separately")
