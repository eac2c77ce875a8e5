"""The demo's corpus on disk, laid out as img2dataset leaves one (its writer and its downloader, version 1.4x).

    ROOT/raw/00000.tar 00000.parquet 00000_stats.json ...   the corpus, with its mistakes
    ROOT/validation.tar                                     clean pairs of other scenes
    ROOT/truth.parquet                                      what is wrong; nothing in the shards gives it away
    ROOT/model.json                                         open_clip config of the model to train

As in a real download, samples stand in the order in which they arrived, a few per cent of the rows of the parquet
failed and have no sample, and keys have gaps there. Everything follows from the seed: the same bytes every time.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from math import ceil, log10
from pathlib import Path
from typing import Any

import polars as pl

from ecif.demo.mistakes import CLEAN, Pair, plant
from ecif.demo.scenes import SIDE, render, scenes
from ecif.progress import Progress, Silent

MOST_PAIRS = 20_000  # about half of all scenes there are
FAILED = 0.03  # fraction of the attempted downloads that failed
_FAILURES = (
    ("failed_to_download", "HTTP Error 404: Not Found"),
    ("failed_to_download", "HTTP Error 403: Forbidden"),
    ("failed_to_download", "<urlopen error timed out>"),
    ("failed_to_resize", "image decoding error"),
)
_OUT_OF_ORDER = 12  # a download finishes at most about this many places from where it began
_EPOCH = 1_767_225_600  # 2026-01-01: fixed, so that the bytes are
_SCHEMA = {
    "uid": pl.String, "caption": pl.String, "url": pl.String, "key": pl.String, "status": pl.String,
    "error_message": pl.String, "width": pl.Int32, "height": pl.Int32, "original_width": pl.Int32,
    "original_height": pl.Int32, "exif": pl.String, "sha256": pl.String,
}  # fmt: skip
TRUTH_SCHEMA = {
    "uid": pl.String, "key": pl.String, "shard": pl.String, "misaligned": pl.Boolean, "kind": pl.String,
    "original_caption": pl.String, "caption": pl.String,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Corpus:
    """Where everything is.

    Attributes:
        raw: directory of the shards. shards: their tars, in order. validation: tar of clean pairs.
        truth: parquet with the columns of `TRUTH_SCHEMA`, one row per pair. config: of the model.
    """

    raw: Path
    shards: tuple[Path, ...]
    validation: Path
    truth: Path
    config: Path


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One url of the corpus: a pair that was downloaded, or a failure that has a caption and nothing else."""

    pair: Pair
    number: int
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
        root: directory; created, and `root/raw` replaced if it is there.
        pairs: samples of the corpus. shards: tars they are spread over, sizes balanced within one.
        validation_pairs: clean pairs whose scenes do not occur in the corpus.
        wrong: fraction of mistaken captions, in equal parts of the four kinds.

    Raises:
        ValueError: fewer than two pairs a shard, more than there are scenes for, or a fraction outside [0, 1/2].
    """
    if shards < 1 or pairs < 2 * shards:
        raise ValueError(f"{pairs} pairs do not fill {shards} shards with two each")
    rng = random.Random(seed)
    failures = round(pairs * FAILED / (1 - FAILED))
    everything = list(islice(scenes(rng), pairs + failures + validation_pairs))
    if len(everything) < pairs + failures + validation_pairs:
        raise ValueError(f"there are {len(everything):,} scenes, too few for {pairs:,} pairs")
    attempts = [_Attempt(pair, n) for n, pair in enumerate(plant(everything[:pairs], wrong, rng))]
    right = plant(everything[pairs:], 0.0, rng)
    attempts += [_Attempt(pair, pairs + n, rng.choice(_FAILURES)) for n, pair in enumerate(right[:failures])]
    rng.shuffle(attempts)
    clean = [_Attempt(pair, pairs + failures + n) for n, pair in enumerate(right[failures:])]

    raw = root / "raw"
    if raw.exists():
        shutil.rmtree(raw)
    raw.mkdir(parents=True)
    truth: list[dict[str, Any]] = []
    progress.stage("render", pairs + validation_pairs, "scenes")
    parts = _parts(attempts, shards)
    packer = _Packer(max(len(part) for part in (*parts, clean)), seed, rng, progress)
    for number, part in enumerate(parts):
        records = packer.tar(raw / f"{number:05d}.tar", number, part)
        packer.sidecars(raw, number, [record for record, _ in records])
        ...
    progress.end()
    pl.DataFrame(truth, schema=TRUTH_SCHEMA).write_parquet(root / "truth.parquet")
    (root / "model.json").write_bytes(resources.files("ecif.demo").joinpath("model.json").read_bytes())
    return Corpus(raw, tuple(tars), root / "validation.tar", root / "truth.parquet", root / "model.json")


def _parts(attempts: Sequence[_Attempt], shards: int) -> list[Sequence[_Attempt]]:
    bounds = [len(attempts) * n // shards for n in range(shards + 1)]
    return [attempts[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]


def _pack(
    folder: Path,
    name: str,
    number: int,
    attempts: Sequence[_Attempt],
    samples_per_shard: int,
    seed: int,
    rng: random.Random,
    progress: Progress,
    sidecars: bool = True,
) -> list[tuple[dict[str, Any], _Attempt]]:
    """Write one shard; returns the records of its samples in the order of the tar."""
    digits = ceil(log10(samples_per_shard))
    finished = sorted(range(len(attempts)), key=lambda place: place + rng.uniform(0, _OUT_OF_ORDER))
    records = []
    with tarfile.open(folder / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for place in finished:
            attempt = attempts[place]
            key = f"{10**digits * number + place:0{digits + 5}d}"
            image = _image(attempt, rng) if attempt.failure is None else None
            record = _record(attempt, key, image, seed)
            records.append(record)
            if image is not None:
                progress.advance()
                # In this order by img2dataset: extensions sorted.
                _add(tar, f"{key}.jpg", image)
                _add(tar, f"{key}.json", json.dumps(record, indent=4).encode())
                _add(tar, f"{key}.txt", attempt.pair.caption.encode())
    if sidecars:
        pl.DataFrame(records, schema=_SCHEMA).write_parquet(folder / f"{name}.parquet")
        stats = json.dumps(_stats(records, number), indent=4)
        (folder / f"{name}_stats.json").write_text(stats, "utf-8")
    found = [(record, attempts[place]) for record, place in zip(records, finished, strict=True)]
    return [(record, attempt) for record, attempt in found if attempt.failure is None]


def _image(attempt: _Attempt, rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    render(attempt.pair.scene, rng).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def _record(attempt: _Attempt, key: str, image: bytes | None, seed: int) -> dict[str, Any]:
    """A row of the parquet, which is also the .json of the sample."""
    uid = hashlib.sha256(f"ecif demo {seed} {attempt.number}".encode()).hexdigest()[:32]
    status, message = attempt.failure or ("success", None)
    side = SIDE if image is not None else None
    return {
        "uid": uid, "caption": attempt.pair.caption, "url": f"https://pictures.example/{uid}.jpg", "key": key,
        "status": status, "error_message": message, "width": side, "height": side, "original_width": side,
        "original_height": side, "exif": "{}" if image is not None else None,
        "sha256": hashlib.sha256(image).hexdigest() if image is not None else None,
    }  # fmt: skip


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.mtime = len(data), 0o444, _EPOCH
    header.uname, header.gname = "bigdata", "bigdata"  # as webdataset's writer signs
    tar.addfile(header, io.BytesIO(data))


def _stats(records: Iterable[dict[str, Any]], number: int) -> dict[str, Any]:
    records = list(records)
    by_status = Counter(record["status"] for record in records)
    duration = len(records) / 100
    start = float(_EPOCH + 60 * number)
    return {
        "count": len(records),
        "successes": by_status["success"],
        "failed_to_download": by_status["failed_to_download"],
        "failed_to_resize": by_status["failed_to_resize"],
        "duration": duration,
        "start_time": start,
        "end_time": start + duration,
        "status_dict": dict(Counter(record["error_message"] or "success" for record in records)),
    }


def _truth(record: dict[str, Any], attempt: _Attempt, shard: str) -> dict[str, Any]:
    pair = attempt.pair
    return {
        "uid": record["uid"], "key": record["key"], "shard": shard, "misaligned": pair.kind != CLEAN,
        "kind": pair.kind, "original_caption": pair.original, "caption": pair.caption,
    }  # fmt: skip
