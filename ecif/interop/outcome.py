"""Who is in an output and who is not, sample by sample, out of the score table and the ledger of a shard.

Both are small beside the tars and exist in every form of output: shards one to one, packed anew, or columns only.
Restored samples are in the output again, though their ledger still tells of them.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from ecif import ledger, manifest, restores
from ecif.ahead import ahead
from ecif.errors import InputError, MissingFileError
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.manifest import Manifest
from ecif.progress import Progress, Silent
from ecif.stages.loop import Failure
from ecif.storage import Storage


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the samples of one input shard.

    Attributes:
        shard: its name. url: of its tar.
        samples: one row per sample in the order of the tar: `index` (u32), `key`, `uid`, `gone` (bool), and the score
            columns that were asked for.
    """

    shard: str
    url: str
    samples: pl.DataFrame


def each(
    shards: Iterable[Shard],
    layout: Layout,
    storage: Storage,
    failed: dict[str, Failure],
    columns: Sequence[str] | None = (),
    progress: Progress = Silent(),
) -> Iterator[tuple[Shard, Outcome]]:
    """What became of the samples of all shards, in order, read a few ahead.

    Args:
        failed: takes the shards that are not finished, or whose files are damaged.
        columns: see `read`.
    """
    back = came_back(layout, storage)

    def look(shard: Shard) -> tuple[Shard, Outcome | Failure]:
        try:
            recorded = manifest.read(layout, storage, shard.name)
            if recorded is None:
                return shard, unfinished(shard, layout)
            return shard, read(recorded, layout, storage, back.get(shard.name, ()), columns)
        except InputError as error:
            return shard, Failure(shard.name, error)

    for shard, found in ahead(look, shards):
        if isinstance(found, Failure):
            failed[shard.name] = found
        else:
            yield shard, found
        progress.advance()


def unfinished(shard: Shard, layout: Layout) -> Failure:
    """What is wrong with a shard that has no manifest."""
    problem = "this shard is not finished; run apply, or clean, again"
    return Failure(shard.name, MissingFileError(problem, url=layout.manifest(shard.name)))


def came_back(layout: Layout, storage: Storage) -> dict[str, set[int]]:
    """Positions of the restored samples, by input shard.

    Raises:
        InputError: the record of a restore is damaged.
    """
    finished = {(done.restore_key, done.shard) for done in restores.shards(layout, storage)}
    found: dict[str, set[int]] = {}
    for claim in restores.claims(layout, storage):
        for shard, places in claim.samples.items():
            if (claim.key, shard) in finished:
                found.setdefault(shard, set()).update(places)
    return found


def read(
    recorded: Manifest,
    layout: Layout,
    storage: Storage,
    back: Collection[int] = (),
    columns: Sequence[str] | None = (),
) -> Outcome:
    """What became of the samples of a finished shard.

    Args:
        back: positions of those that were restored.
        columns: further columns of the score table; None: all.

    Raises:
        InputError: scores or ledger are damaged, or not those of the manifest. MissingFileError: one is gone.
    """
    url = layout.scores(recorded.score_key, recorded.shard)
    wanted = None if columns is None else ["index", "key", "uid", *columns]
    try:
        scores = pl.read_parquet(io.BytesIO(_read(recorded, "scores", url, storage)), columns=wanted)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"is no score table: {error}", url=url) from error
    gone = pl.Series("index", [], pl.UInt32)
    if "ledger" in recorded.files:
        place = layout.ledger(recorded.shard)
        gone = ledger.read(_read(recorded, "ledger", place, storage), place)["index"]
    samples = scores.with_columns(gone=pl.col("index").is_in(gone.implode()))
    if (samples.height, int(samples["gone"].sum())) != (recorded.samples, recorded.samples - recorded.kept):
        problem = f"ledger and scores tell of {samples['gone'].sum()} gone of {samples.height} samples, the manifest of"
        raise InputError(
            f"{problem} {recorded.samples - recorded.kept} of {recorded.samples}", url=layout.manifest(recorded.shard)
        )
    restored = pl.Series("index", sorted(back), pl.UInt32)
    stays = samples.with_columns(gone=pl.col("gone") & ~pl.col("index").is_in(restored.implode()))
    return Outcome(recorded.shard, recorded.input.url, stays)


def _read(recorded: Manifest, kind: str, url: str, storage: Storage) -> bytes:
    mark = recorded.files.get(kind)
    return storage.read_bytes(url) if mark is None else storage.read_marked(url, mark.size, mark.sha256)
