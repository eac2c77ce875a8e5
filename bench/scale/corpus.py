"""A corpus with sizes and no bytes: on a disk links to a few sparse files, on S3 the smallest objects that will do.

Everything that orchestration looks at is real: names, sizes, tags, statistics beside every tar. The tars, which it
never opens, are empty.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fsspec.asyn import sync

from ecif.settings import Settings
from ecif.storage.remote import filesystem

PAIRS = 100  # of a shard, by its statistics and in its score table
TAR_BYTES = 512 * PAIRS  # the report opens those with the worst and best pairs, and finds no picture there
_LINKS = 30_000  # of one file; ext4 allows 65,000
_AT_ONCE = 64


def names(shards: int) -> Iterator[str]:
    """Names of the shards, in their order."""
    return (f"{number:07d}" for number in range(shards))


def settings(root: str, out: str, **changes: Any) -> Settings:
    """Settings that clean the corpus at `root`; the model is a name and is never loaded."""
    values: dict[str, Any] = {
        "model": "ViT-B-32",
        "pretrained": "laion2b_s34b_b79k",
        "validation": (f"{root}/validation.tar",),
        "out": out,
        "device": "cpu",
    }
    return Settings(**(values | changes))


def on_disk(root: Path, shards: int) -> None:
    """Lay out `root/raw` and `root/validation.tar`, unless they are there."""
    stamp = root / "laid-out"
    if stamp.exists() and stamp.read_text() == str(shards):
        return
    raw = root / "raw"
    raw.mkdir(parents=True)
    (root / "validation.tar").touch()
    tar = stats = Path()
    for number, name in enumerate(names(shards)):
        if number % _LINKS:
            os.link(tar, raw / f"{name}.tar")
            os.link(stats, raw / f"{name}_stats.json")
            continue
        tar, stats = raw / f"{name}.tar", raw / f"{name}_stats.json"
        tar.touch()
        os.truncate(tar, TAR_BYTES)
        stats.write_text(json.dumps({"successes": PAIRS, "count": PAIRS}))
    stamp.write_text(str(shards))


def on_s3(root: str, shards: int, options: dict[str, Any]) -> None:
    """Put the objects of the corpus below `root` (`s3://bucket/prefix`)."""
    fs = filesystem(root, options)
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    stats = json.dumps({"successes": PAIRS, "count": PAIRS}).encode()

    async def put(key: str, data: bytes) -> None:
        await fs._call_s3("put_object", Bucket=bucket, Key=f"{prefix}/{key}", Body=data)

    async def run() -> None:
        left = names(shards)

        async def work() -> None:
            for name in left:
                await put(f"raw/{name}.tar", bytes(TAR_BYTES))
                await put(f"raw/{name}_stats.json", stats)

        await put("validation.tar", bytes(1024))
        await asyncio.gather(*(work() for _ in range(_AT_ONCE)))

    sync(fs.loop, run)
