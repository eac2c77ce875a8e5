"""Pack the survivors into new shards of N samples: `record_shard` for each input, `extend_map`, then `pack_shard`.

What goes is written down first, shard by shard, without a tar; then the map says which survivor goes where, and each
packed shard is made of the inputs that it needs. So nothing is kept on a local disk, and packed shards are made in any
order, on any machine, and again after a kill, always with the same bytes. The price is reading: an input once for the
ledger, and for every packed shard that has a part of it from its start to the end of that part. That is one or two
readings more when N is no less than what the inputs hold, and about k / 2N where they hold k.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import polars as pl

from ecif import ALGO_VERSION, manifest, packs
from ecif.ahead import ahead
from ecif.errors import ConflictError, InputError
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.manifest import FileMark, Manifest
from ecif.packmap import Part, Target
from ecif.packs import PackInput, PackManifest
from ecif.selection import Decision
from ecif.shards import joined, sidecars
from ecif.shards.joined import Piece
from ecif.shards.samples import track
from ecif.shards.sidecars import Row
from ecif.shards.tar import RECORD, Entry, Limits, TarWriter, scan
from ecif.stages.apply import apply_shard
from ecif.stages.pack_map import extend_map, samples_of
from ecif.stages.parting import ANY, without_global_headers
from ecif.storage import Storage

__all__ = ["Source", "contents", "extend_map", "pack_shard", "record_shard", "sources"]


def record_shard(
    shard: Shard, decision: Decision, layout: Layout, storage: Storage, limits: Limits = Limits()
) -> Manifest:
    """Write ledger, quarantine and manifest of an input shard, but no tar: what is to be packed is settled by that.

    Raises:
        InputError, ConflictError, StorageError: as `apply_shard`. BadTarError: it holds a global PAX header, too.
    """
    return apply_shard(shard, decision, layout, storage, limits, tar=False)


@dataclass(frozen=True)
class Source:
    """One input of a packed shard, with what was recorded about it.

    Attributes:
        samples: of the whole input, as `samples_of` gives them.
    """

    part: Part
    shard: Shard
    recorded: Manifest
    samples: pl.DataFrame

    @cached_property
    def survivors(self) -> pl.DataFrame:
        """The rows of `samples` that stay."""
        return self.samples.filter("stays")

    @property
    def packed(self) -> pl.DataFrame:
        """The rows of `samples` that are packed."""
        return self.survivors[self.part.first : self.part.last]

    def entries(self, stream: BinaryIO, limits: Limits) -> Iterator[Entry]:
        """The members of the tar that are packed, in its order, to be read before the next one is asked for.

        A member of no sample goes with the survivor that it follows, wherever it stands; those in front of the first
        one go with that.

        Args:
            stream: the input, at its start; it is read no further than needed.

        Raises:
            BadTarError: the tar is damaged, or has a global PAX header: that would hold for other inputs' members.
            InputError: its samples are not those that were recorded.
        """
        url = self.recorded.input.url
        places, keys = self.survivors["index"].to_list(), self.survivors["key"].to_list()
        ordinal, stays = -1, False
        for entry, place in track(without_global_headers(scan(stream, url, limits), url), ANY, url):
            if place is not None and place.first:
                stays = ordinal + 1 < len(places) and places[ordinal + 1] == place.index
                if stays:
                    ordinal += 1
                    if place.key != keys[ordinal]:
                        problem = f"sample {place.index} is {place.key!r}, and {keys[ordinal]!r} was recorded"
                        raise InputError(f"{problem}; use a new --out", url=url)
            if place is not None and not stays:
                continue
            if ordinal >= self.part.last:
                return
            if max(ordinal, 0) >= self.part.first:
                yield entry
        if ordinal + 1 < self.part.last:
            raise InputError(f"it has {ordinal + 1} of the {len(places)} survivors that were recorded", url=url)

    def piece(self, storage: Storage) -> Piece:
        """What it adds to the sidecars.

        Raises:
            InputError: a sidecar cannot be read, or does not belong to the tar.
        """
        names = self.samples.select("key", "uid", ~pl.col("stays")).iter_rows()
        samples = [Row(key, uid, removed) for key, uid, removed in names]
        chosen = self.packed["index"].to_list()
        rows, stats = None, {}
        if (url := self.shard.parquet) is not None:
            rows = joined.rows_of(storage.read_bytes(url), samples, chosen, url)
        if (url := self.shard.stats) is not None:
            stats = sidecars.read_stats(storage.read_bytes(url), url)
        return Piece([samples[place] for place in chosen], rows, stats)


def sources(target: Target, shards: Mapping[str, Shard], layout: Layout, storage: Storage) -> list[Source]:
    """What was recorded about the inputs of a packed shard, in order.

    Args:
        shards: those of the inventory, by name.

    Raises:
        InputError: an input is in no inventory, was not recorded, or not as the map has it.
    """

    def read(part: Part) -> Source:
        url = layout.manifest(part.shard)
        recorded, shard = manifest.read(layout, storage, part.shard), shards.get(part.shard)
        if recorded is None or shard is None:
            problem = "is in no inventory" if recorded else "is gone, but the map counts on it"
            raise InputError(f"{problem}; use a new --out", url=url)
        if part.last > recorded.kept:
            raise InputError(f"counts {recorded.kept} survivors, and the map more; use a new --out", url=url)
        return Source(part, shard, recorded, samples_of(recorded, layout, storage))

    return list(ahead(read, target.parts))


def table(inputs: Sequence[Source]) -> bytes:
    """The table of a packed shard (`packs.TABLE`) as a file."""
    origins = pl.concat(one.packed.with_columns(shard=pl.lit(one.part.shard)) for one in inputs)
    buffer = io.BytesIO()
    rows = origins.with_row_index("position").select(pl.col(name).cast(kind) for name, kind in packs.TABLE.items())
    rows.write_parquet(buffer)
    return buffer.getvalue()


def contents(target: Target, inputs: Sequence[Source], layout: Layout, storage: Storage) -> dict[str, bytes]:
    """The small files of a packed shard, by kind.

    Raises:
        InputError: a sidecar of an input does not belong to its tar, or the inputs' tables do not fit together.
    """
    pieces = list(ahead(lambda one: one.piece(storage), inputs))
    found = {"stats": joined.stats(pieces), "table": table(inputs)}
    if (rows := joined.parquet(pieces, layout.parquet(target.name))) is not None:
        found["parquet"] = rows
    return found


def pack_shard(
    target: Target,
    decision: Decision,
    shards: Mapping[str, Shard],
    layout: Layout,
    storage: Storage,
    limits: Limits = Limits(),
) -> PackManifest:
    """Write one packed shard as the map says, unless its manifest exists.

    Args:
        target: one of the map's. decision: what the inputs were recorded by. shards: the inventory, by name.

    Raises:
        InputError: an input changed, was not recorded as the map has it, or a sidecar does not fit.
        BadTarError: an input is damaged, or has a global PAX header. ConflictError: the output holds another decision.
        StorageError: something cannot be read or written.
    """
    finished = packs.read(target, layout, storage)
    if finished is not None:
        _same_decision(finished.decision_key, decision, layout.pack_manifest(target.generation, target.name))
        return finished
    inputs = sources(target, shards, layout, storage)
    for one in inputs:
        _same_decision(one.recorded.decision_key, decision, layout.manifest(one.part.shard))
    small = contents(target, inputs, layout, storage)
    marks = {"tar": _tar(target, inputs, layout, storage, limits)}
    urls = packs.urls(target.name, target.generation, layout)
    for kind, data in small.items():
        published = storage.publish(urls[kind], data)
        marks[kind] = FileMark(published.size, published.sha256)
    done = PackManifest(
        shard=target.name,
        generation=target.generation,
        samples=target.samples,
        inputs={one.part.shard: _input(one) for one in inputs},
        files=marks,
        fit_key=decision.fit_key,
        score_key=decision.score_key,
        decision_key=decision.key,
        algo_version=ALGO_VERSION,
    )
    storage.publish_json(layout.pack_manifest(target.generation, target.name), done.to_json())
    return done


def _input(one: Source) -> PackInput:
    tar = one.recorded.input
    return PackInput(tar.url, tar.size, tar.etag, one.part.first, one.part.last)


def _tar(target: Target, inputs: Sequence[Source], layout: Layout, storage: Storage, limits: Limits) -> FileMark:
    at_most = sum(one.recorded.input.size for one in inputs) + RECORD
    with storage.create(layout.tar(target.name), at_most=at_most) as out:
        writer = TarWriter(out)
        for one in inputs:
            with storage.open(one.recorded.input.url, expect=one.recorded.input) as stream:
                for entry in one.entries(stream, limits):
                    writer.add(entry)
        writer.end()
        published = out.finish()
    return FileMark(published.size, published.sha256)


def _same_decision(key: str, decision: Decision, url: str) -> None:
    if key != decision.key:
        problem = f"this shard was written by decision {key}, not {decision.key}; use a new --out"
        raise ConflictError(problem, url=url)
