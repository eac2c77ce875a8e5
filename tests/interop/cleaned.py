"""A small cleaned corpus in the form that img2dataset writes, for the tests of what others read."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from PIL import Image

from ecif.manifest import Manifest
from ecif.selection import Decision
from ecif.stages.apply import apply_shard
from tests.conftest import MakeTar
from tests.stages.outputs import Output, parquet, policy, shelve

SAMPLES, SHARDS, KEPT = 6, 3, 3


@dataclass(frozen=True)
class Cleaned:
    """An output of which half went; within each shard the first samples are the worst."""

    output: Output
    decision: Decision
    manifests: tuple[Manifest, ...]

    @property
    def root(self) -> str:
        return self.output.layout.root

    @property
    def tars(self) -> list[str]:
        """Paths of the cleaned tars."""
        return [f"{self.root}/{number:08d}.tar" for number in range(SHARDS)]

    @property
    def left(self) -> list[str]:
        """Keys of the survivors, in order."""
        return [key(number, index) for number in range(SHARDS) for index in range(SAMPLES - KEPT, SAMPLES)]

    @property
    def went(self) -> list[str]:
        """Keys of the others, in order."""
        return [key(number, index) for number in range(SHARDS) for index in range(SAMPLES - KEPT)]


def key(shard: int, index: int) -> str:
    """A key as DataComp has them: twelve digits."""
    return f"{shard:08d}{index:04d}"


def uid(key: str) -> str:
    """The uid of a sample: 32 hexadecimal digits."""
    return hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()


def members(number: int) -> list[tuple[str, bytes]]:
    """A shard's members: PNG, caption and record of each sample."""
    found = []
    for index in range(SAMPLES):
        image = io.BytesIO()
        Image.new("RGB", (8, 8), (40 * number, 40 * index, 99)).save(image, "PNG")
        name = key(number, index)
        record = {
            "key": name,
            "uid": uid(name),
            "url": f"https://example.org/{name}.png",
            "original_width": 640 + index,
        }
        found += [
            (f"{name}.png", image.getvalue()),
            (f"{name}.txt", f"caption {name}".encode()),
            (f"{name}.json", json.dumps(record).encode()),
        ]
    return found


def table(number: int) -> pl.DataFrame:
    """What img2dataset writes beside a shard: a row for each download, the last of which failed."""
    n = SAMPLES + 1
    keys = [key(number, index) for index in range(n)]
    return pl.DataFrame(
        {
            "url": [f"https://example.org/{name}.png" for name in keys],
            "caption": [f"caption {name}" for name in keys],
            "uid": [uid(name) for name in keys],
            "oai-clip-vit-l14-score": pl.Series([0.01 * index for index in range(n)], dtype=pl.Float64),
            "face_bboxes": pl.Series([[[0.1, 0.2, 0.3, 0.4]], *[[]] * (n - 1)], dtype=pl.List(pl.List(pl.Float64))),
            "key": keys,
            "status": ["success"] * SAMPLES + ["failed_to_download"],
            "width": pl.Series([8] * SAMPLES + [None], dtype=pl.Int32),
            "original_width": pl.Series([640 + index for index in range(SAMPLES)] + [None], dtype=pl.Int32),
            "original_height": pl.Series([480] * SAMPLES + [None], dtype=pl.Int32),
            "sha256": [hashlib.sha256(name.encode()).hexdigest() for name in keys],
        }
    )


def shelved(folder: Path, make_tar: MakeTar, sidecars: bool = True, names: Sequence[str] = ()) -> Output:
    """The corpus inventoried and scored, nothing written yet."""
    chosen = names or [f"{number:08d}" for number in range(SHARDS)]
    output = shelve(folder, {name: make_tar(members(number)) for number, name in enumerate(chosen)}, sidecars=sidecars)
    if sidecars:
        for number, shard in enumerate(output.inventory.shards):
            assert shard.parquet is not None
            Path(shard.parquet).write_bytes(parquet(table(number)))
    return output


def cleaned(folder: Path, make_tar: MakeTar, sidecars: bool = True, names: Sequence[str] = ()) -> Cleaned:
    """The corpus with half of the samples dropped."""
    output = shelved(folder, make_tar, sidecars, names)
    decision = output.decide(policy("0.5"))
    written = [apply_shard(shard, decision, output.layout, output.storage) for shard in output.inventory.shards]
    return Cleaned(output, decision, tuple(written))
