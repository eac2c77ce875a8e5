"""Bring samples back that went: as additional shards, byte for byte, since nothing that is written ever changes.

The ledger says which samples went and what their bytes were. They are copied from the quarantine where all that are
asked for lie there, else from the input tar, and each has to have the SHA-256 of its row. Restored samples of SHARD
come to `OUT/restored-KEY/SHARD.tar`, KEY standing for the samples (see `ecif.restores`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

import polars as pl

from ecif import ALGO_VERSION, ledger
from ecif import manifest as manifests
from ecif.ahead import ahead
from ecif.errors import InputError, MissingFileError, UsageError
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.manifest import FileMark, Manifest
from ecif.restores import Claim, Restored
from ecif.selection import Decision
from ecif.shards import sidecars
from ecif.shards.samples import Place, track
from ecif.shards.sidecars import Row
from ecif.shards.tar import Entry, scan
from ecif.stages.parting import ANY, Growing
from ecif.storage import Storage
from ecif.verdicts import DENIED, QUARANTINE, read_scores

NAMES = ("key", "sample", "uid")
"""Kinds of entries that name a sample in a ledger."""

_SHOWN = 10  # of the entries that match nothing


@dataclass(frozen=True, slots=True)
class Selection:
    """Which samples are asked for.

    Attributes:
        names: (kind, text) of keys, SHARD/KEY and uids; none: all samples, within shards and reasons.
        shards, reasons: only those of these shards and with these reasons; none: all.
    """

    names: frozenset[tuple[str, str]] = frozenset()
    shards: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()


def select(layout: Layout, storage: Storage, wanted: Selection, *, denied: bool = False) -> dict[str, dict[int, str]]:
    """Find the samples that are asked for.

    Args:
        denied: whether samples that the denylist names may come back.

    Returns:
        Shard -> position in its input tar -> key.

    Raises:
        UsageError: an entry, a shard or a reason matches nothing that went, or samples are on the denylist.
        InputError: a ledger cannot be read, or is not the one of its manifest.
    """
    done = sorted(manifests.done(layout, storage))
    if not done:
        raise UsageError(f"{layout.root} holds no finished shard; run apply first")
    if useless := sorted(f"{kind}:{text}" for kind, text in wanted.names if kind not in NAMES):
        raise UsageError(f"a ledger knows keys and uids, not {_shown(useless)}")
    if unknown := sorted(wanted.shards - set(done)):
        raise UsageError(f"no finished shard has the name {_shown(unknown)}")
    names = {kind: {text for of, text in wanted.names if of == kind} for kind in NAMES}
    found: dict[str, dict[int, str]] = {}
    on_denylist = 0
    matched: set[tuple[str, str]] = set()
    reasons: set[str] = set()
    for shard, table in _ledgers(
        [name for name in done if not wanted.shards or name in wanted.shards], layout, storage
    ):
        for key, uid, index, reason in table.select("key", "uid", "index", "reason").iter_rows():
            said = {("key", key), ("sample", f"{shard}/{key}"), ("uid", uid)}
            hits = {(kind, text) for kind, text in said if text in names[kind]}
            if wanted.names and not hits:
                continue
            matched |= hits
            reasons.add(reason)
            if not wanted.reasons or reason in wanted.reasons:
                on_denylist += reason.startswith(DENIED)
                found.setdefault(shard, {})[index] = key
    if missing := sorted(f"{kind}:{text}" for kind, text in wanted.names - matched):
        raise UsageError(f"{len(missing):,} entries match no sample that went, nothing is restored: {_shown(missing)}")
    if unknown := sorted(wanted.reasons - reasons):
        raise UsageError(f"no such sample went for the reason {_shown(unknown)}, but for {_shown(sorted(reasons))}")
    if on_denylist and not denied:
        raise UsageError(
            f"{on_denylist:,} of these samples are on the denylist, nothing is restored; narrow the selection with "
            "--reason, or give --denied to bring them back all the same"
        )
    return found


def restore_shard(shard: Shard, one: Claim, decision: Decision, layout: Layout, storage: Storage) -> Restored:
    """Write the restored samples of one shard, unless that is done.

    Raises:
        InputError: the input tar has changed or is gone, or its samples are not those of the ledger.
        StorageError: something cannot be read or written.
    """
    record = layout.restore(one.key, shard.name)
    try:
        return Restored.from_json(storage.read_json(record), record)
    except MissingFileError:
        pass
    written = manifests.read(layout, storage, shard.name)
    if written is None:
        raise MissingFileError("is not there; the shard has to be finished", url=layout.manifest(shard.name))
    wanted = set(one.samples[shard.name])
    table = _ledger(written, layout, storage)
    aside = table.filter(pl.col("action") == QUARANTINE)
    # Samples with one key that follow each other in the quarantine look like a single one there.
    apart = not (aside["key"] == aside["key"].shift(1)).any()
    from_quarantine = apart and wanted <= set(aside["index"])
    picked = table.filter(pl.col("index").is_in(sorted(wanted)))
    places = dict(enumerate(aside["index"])) if from_quarantine else {index: index for index in wanted}
    name = layout.restored(one.key, shard.name)
    source = layout.quarantine(shard.name) if from_quarantine else written.input.url
    expect = None if from_quarantine else written.input
    with storage.open(source, expect=expect) as stream, storage.create(layout.tar(name)) as writer:
        tar = Growing(writer)
        found = _pick(track(scan(stream, source), ANY, source), {n: i for n, i in places.items() if i in wanted}, tar)
        for index, key, digest in picked.select("index", "key", "sha256").iter_rows():
            if found.get(index) != (key, digest):
                raise InputError(
                    f"sample {index}, {key!r}, is not the one of the ledger; nothing is restored", url=source
                )
        parts = _sidecars(shard, wanted, written, decision, layout, storage)
        files = {"tar": tar.finish()}
    for kind, url in (("parquet", layout.parquet(name)), ("stats", layout.stats(name))):
        if kind in parts:
            published = storage.publish(url, parts[kind])
            files[kind] = FileMark(published.size, published.sha256)
    kind = "quarantine" if from_quarantine else "input"
    done = Restored(shard.name, one.key, one.decision_key, len(wanted), kind, written.input, files, ALGO_VERSION)
    storage.publish_json(record, asdict(done))
    return done


def _pick(
    entries: Iterable[tuple[Entry, Place | None]], places: Mapping[int, int], tar: Growing
) -> dict[int, tuple[str, str]]:
    """Copy samples of a tar into another one.

    Args:
        places: position in this tar -> position in the input tar, for the samples that are wanted.

    Returns:
        Position in the input tar -> key and SHA-256 of the raw members.
    """
    digests = {}
    for entry, place in entries:
        if place is None or (index := places.get(place.index)) is None:
            continue
        if place.first:
            digests[index] = (place.key, hashlib.sha256())
        tar.add(entry, digests[index][1])
    return {index: (key, digest.hexdigest()) for index, (key, digest) in digests.items()}


def _sidecars(
    shard: Shard, wanted: set[int], written: Manifest, decision: Decision, layout: Layout, storage: Storage
) -> dict[str, bytes]:
    """The sidecars of the restored samples, where the input has some."""
    parts = {}
    if shard.parquet is not None:
        scores, _ = read_scores(shard, decision, layout, storage, written.files["scores"])
        samples = [
            Row(key, uid, index not in wanted) for key, uid, index in scores.select("key", "uid", "index").rows()
        ]
        parts["parquet"] = sidecars.chosen_parquet(storage.read_bytes(shard.parquet), samples, shard.parquet)
    if shard.stats is not None:
        parts["stats"] = sidecars.chosen_stats(storage.read_bytes(shard.stats), len(wanted), shard.stats)
    return parts


def _ledgers(names: Collection[str], layout: Layout, storage: Storage) -> Iterator[tuple[str, pl.DataFrame]]:
    def read(name: str) -> tuple[str, pl.DataFrame]:
        found = manifests.read(layout, storage, name)
        if found is None:
            raise MissingFileError("was there a moment ago", url=layout.manifest(name))
        return name, _ledger(found, layout, storage)

    return ahead(read, names)


def _ledger(written: Manifest, layout: Layout, storage: Storage) -> pl.DataFrame:
    url, mark = layout.ledger(written.shard), written.files["ledger"]
    return ledger.read(storage.read_marked(url, mark.size, mark.sha256), url)


def _shown(texts: Collection[str]) -> str:
    more = f" and {len(texts) - _SHOWN:,} more" if len(texts) > _SHOWN else ""
    return ", ".join(sorted(texts)[:_SHOWN]) + more
