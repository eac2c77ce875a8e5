"""Freeze which survivor goes to which new shard, before the first of them is packed.

The map follows from the manifests and ledgers of the recorded shards, so two runs that see the same shards make the
same bytes. Two that do not agree on the one that is published first (`agreement`), and the other run's further shards
come in the next generation. What would make new shards that loaders misread is refused while nothing is frozen: the
keys of every new shard are looked through, at the price of reading each ledger and score table once more. Memory: the
keys of one new shard, and a name and a number per input shard.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import polars as pl

from ecif import ALGO_VERSION, agreement, ledger, manifest, packmap
from ecif.ahead import ahead
from ecif.errors import ConflictError, InputError, UsageError
from ecif.layout import Layout
from ecif.manifest import Manifest
from ecif.packmap import Generation, PackMap
from ecif.storage import Storage


def extend_map(layout: Layout, storage: Storage, n: int) -> PackMap:
    """Add the recorded shards that the map does not cover yet as a new generation; nothing happens without any.

    To be called when every shard that can be recorded is: one that is recorded later begins a generation of its own.

    Args:
        n: samples of a packed shard.

    Raises:
        UsageError: two samples of one packed shard would have the same key. ConflictError: the output is packed in
            another size, or holds shards that were written one to one. InputError: a file is damaged or missing.
    """
    if n < 1:
        raise UsageError(f"--repack {n}: a shard has at least one sample")
    packed = packmap.load(layout, storage)
    if packed.generations and (before := packed.generations[0].samples_per_shard) != n:
        problem = f"this output is packed in shards of {before:,} samples, not {n:,}: choose a new --out"
        raise ConflictError(problem, url=layout.packs())
    recorded = manifest.done(layout, storage)
    while new := sorted(recorded - packed.shards):
        own = _generation(new, packed, n, layout, storage)
        url = layout.pack_map(own.number)
        # Another run may have been first: then its shards are packed by its map, and what is left comes after.
        settled = Generation.decode(agreement.settle(url, own.encode(), storage), url)
        try:
            packed = PackMap((*packed.generations, settled))
        except ValueError as error:
            raise ConflictError(
                f"another run packs this output otherwise: {error}; use a new --out", url=url
            ) from error
    return packed


def samples_of(recorded: Manifest, layout: Layout, storage: Storage) -> pl.DataFrame:
    """The samples of an input shard, and which of them stay.

    Returns:
        One row per sample in the order of the tar: `index` (u32), `key`, `uid`, `stays` (bool).

    Raises:
        InputError: ledger or scores are not those of the manifest.
    """
    name = recorded.shard
    gone = ledger.read(_read(recorded, "ledger", layout.ledger(name), storage), layout.ledger(name))
    url = layout.scores(recorded.score_key, name)
    try:
        scores = pl.read_parquet(io.BytesIO(_read(recorded, "scores", url, storage)), columns=["index", "key", "uid"])
    except pl.exceptions.PolarsError as error:
        raise InputError(f"is no score table: {error}", url=url) from error
    samples = scores.with_columns(stays=~pl.col("index").is_in(gone["index"].implode()))
    if (samples.height, samples["stays"].sum()) != (recorded.samples, recorded.kept):
        problem = f"{samples['stays'].sum()} of {samples.height} samples stay by ledger and scores, the manifest counts"
        raise InputError(f"{problem} {recorded.kept} of {recorded.samples}", url=layout.manifest(name))
    return samples


def _read(recorded: Manifest, kind: str, url: str, storage: Storage) -> bytes:
    mark = recorded.files.get(kind)
    if mark is None:
        raise InputError(f"lists no {kind}, without which the shard cannot be packed", url=url)
    return storage.read_marked(url, mark.size, mark.sha256)


def _generation(names: Sequence[str], packed: PackMap, n: int, layout: Layout, storage: Storage) -> Generation:
    """The generation that the named shards make, if readers will understand its shards."""

    def read(name: str) -> tuple[Manifest, pl.DataFrame]:
        recorded = manifest.read(layout, storage, name)
        if recorded is None:
            raise InputError("was there a moment ago and is gone", url=layout.manifest(name))
        if "tar" in recorded.files:
            problem = "this shard was written one to one; leave out --repack, or use a new --out"
            raise ConflictError(problem, url=layout.manifest(name))
        return recorded, samples_of(recorded, layout, storage).filter("stays")

    decisions = set()
    shards: dict[str, int] = {}

    def passing() -> Iterable[tuple[str, pl.DataFrame]]:
        for recorded, stay in ahead(read, names):
            decisions.add(recorded.decision_key)
            shards[recorded.shard] = stay.height
            yield recorded.shard, stay

    _refuse_collisions(passing(), n, packed.packed)
    if len(decisions) > 1:
        problem = f"its shards were cut by several decisions: {', '.join(sorted(decisions))}; use a new --out"
        raise ConflictError(problem, url=layout.manifests())
    made = Generation(len(packed.generations), n, packed.packed, decisions.pop(), shards, ALGO_VERSION)
    if packed.packed + made.packed > packmap.MOST:
        raise UsageError(f"--repack {n} makes more than {packmap.MOST:,} shards; give a larger number")
    return made


def _refuse_collisions(shards: Iterable[tuple[str, pl.DataFrame]], n: int, first: int) -> None:
    """Make sure that no packed shard holds a key of two shards, nor makes one sample of two.

    Args:
        shards: name and survivors of each, in order.
        first: the number of the first packed shard.

    Raises:
        UsageError: one does.
    """
    seen: dict[str, str] = {}
    count, previous = 0, ""
    for shard, stay in shards:
        for index, key in stay.select("index", "key").iter_rows():
            if count % n == 0:
                seen.clear()
                previous = ""
            before = seen.setdefault(key, shard)
            # A key that is repeated within one shard stays as it is, unless what stood between the two goes.
            if before != shard or key == previous:
                place = f"--repack {n}: in the packed shard {first + count // n:08d} the key {key!r}"
                raise UsageError(_collision(place, before, shard, index))
            count, previous = count + 1, key


def _collision(place: str, before: str, shard: str, index: int) -> str:
    if before != shard:
        return (
            f"{place} would stand twice, from the shards {before} and {shard} (sample {index}), and readers would "
            "confuse them; use a new --out without --repack, or give the inputs keys of their own"
        )
    return (
        f"{place} of shard {shard} would stand twice in a row (sample {index}), and readers would take both for one "
        "sample; give --unscored drop, which drops repeated keys, or repair the input"
    )
