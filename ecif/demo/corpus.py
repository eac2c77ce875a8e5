"""The demo's corpus: scenes rendered, captioned, partly spoilt, and packed as a real download would lie there.

    ROOT/raw/00000.tar 00000.parquet 00000_stats.json ...   the corpus, with its mistakes
    ROOT/validation/00000.tar ...                           clean pairs of other scenes
    ROOT/truth.parquet                                      what is wrong; nothing in the shards gives it away
    ROOT/model.json                                         open_clip config of the model to train

As in a real download, samples stand in the order in which they arrived, and a few per cent of the urls failed: they
have a row in the parquet and no sample. Everything follows from the seed: the same bytes every time.
"""

from __future__ import annotations

import hashlib
import io
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from math import ceil, log10
from pathlib import Path

import polars as pl

from ecif.demo.mistakes import CLEAN, Pair, plant
from ecif.demo.packing import Download, pack
from ecif.demo.scenes import SIDE, Scene, render, scenes
from ecif.progress import Progress, Silent

MOST_PAIRS = 20_000  # about half of the scenes there are
FAILED = 0.03  # fraction of the urls that failed
_FAILURES = (
    ("failed_to_download", "HTTP Error 404: Not Found"),
    ("failed_to_download", "HTTP Error 403: Forbidden"),
    ("failed_to_download", "<urlopen error timed out>"),
    ("failed_to_resize", "image decoding error"),
)
_OUT_OF_ORDER = 12  # a download is over at most this many places after its turn

TRUTH = {
    "uid": pl.String, "key": pl.String, "shard": pl.String, "misaligned": pl.Boolean, "kind": pl.String,
    "original_caption": pl.String, "caption": pl.String,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Corpus:
    """Where everything is.

    Attributes:
        raw: directory of the shards. shards: their tars, in order. validation: tar of clean pairs.
        truth: parquet with the columns `TRUTH`, one row per pair. config: of the model.
    """

    raw: Path
    shards: tuple[Path, ...]
    validation: Path
    truth: Path
    config: Path


@dataclass(frozen=True, slots=True)
class _Try:
    """One url: a pair, and the status and message with which its download failed, if it did."""

    pair: Pair
    failure: tuple[str, str] | None = None


def build(
    root: Path,
    *,
    pairs: int,
    validation_pairs: int,
    shards: int,
    wrong: float,
    seed: int,
    progress: Progress = Silent(),
) -> Corpus:
    """Render, caption, spoil and pack.

    Args:
        root: directory; created, and what an earlier call put there is replaced.
        pairs: samples of the corpus. shards: tars they are spread over, their urls balanced within one.
        validation_pairs: clean pairs whose scenes do not occur in the corpus.
        wrong: fraction of mistaken captions, in equal parts of the four kinds.

    Raises:
        ValueError: fewer than two pairs a shard, more pairs than `MOST_PAIRS`, or a fraction outside [0, 1/2].
    """
    if shards < 1 or not 2 * shards <= pairs <= MOST_PAIRS or not 2 <= validation_pairs <= MOST_PAIRS // 4:
        raise ValueError(f"{pairs} pairs in {shards} shards with {validation_pairs} validation pairs: out of range")
    rng = random.Random(seed)
    drawn = scenes(rng)
    tries = [_Try(pair) for pair in plant(list(islice(drawn, pairs)), wrong, rng)]
    lost = plant(list(islice(drawn, round(pairs * FAILED / (1 - FAILED)))), 0.0, rng)
    tries += [_Try(pair, rng.choice(_FAILURES)) for pair in lost]
    rng.shuffle(tries)
    clean = [_Try(pair) for pair in plant(list(islice(drawn, validation_pairs)), 0.0, rng)]

    for folder in (root / "raw", root / "validation"):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    progress.stage("render", pairs + validation_pairs, "scenes")
    bounds = [len(tries) * number // shards for number in range(shards + 1)]
    tars, truths = [], []
    for number in range(shards):
        tars.append(root / "raw" / f"{number:05d}.tar")
        part = tries[bounds[number] : bounds[number + 1]]
        truths.append(_shard(tars[-1], number, part, f"{seed} corpus", rng, progress))
    validation = root / "validation" / "00000.tar"
    _shard(validation, 0, clean, f"{seed} validation", rng, progress)
    progress.end()
    pl.concat(truths).write_parquet(root / "truth.parquet")
    (root / "model.json").write_bytes(resources.files("ecif.demo").joinpath("model.json").read_bytes())
    return Corpus(root / "raw", tuple(tars), validation, root / "truth.parquet", root / "model.json")


def _shard(
    tar: Path, number: int, tries: Sequence[_Try], salt: str, rng: random.Random, progress: Progress
) -> pl.DataFrame:
    """Write one shard; returns the truth about its samples, by place."""
    downloads = []
    for place, item in enumerate(tries):
        uid = hashlib.sha256(f"ecif demo {salt} {number} {place}".encode()).hexdigest()[:32]
        if item.failure is None:
            downloads.append(Download(uid, item.pair.caption, _jpeg(item.pair.scene, rng), SIDE))
            progress.advance()
        else:
            downloads.append(Download(uid, item.pair.caption, None, SIDE, *item.failure))
    arrival = sorted(range(len(tries)), key=lambda place: place + rng.uniform(0, _OUT_OF_ORDER))
    keys = pack(tar, number, downloads, arrival, digits=ceil(log10(len(tries) + 1)))
    rows = [
        (download.uid, key, tar.stem, item.pair.kind != CLEAN, item.pair.kind, item.pair.original, item.pair.caption)
        for download, key, item in zip(downloads, keys, tries, strict=True)
        if item.failure is None
    ]
    return pl.DataFrame(rows, schema=TRUTH, orient="row")


def _jpeg(scene: Scene, rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    render(scene, rng).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()
