"""Time and peak memory of scoring as the corpus grows: synthetic shards, a tiny model, everything else as it is.

The shards are links to a few tars of 1,000 pairs each (pictures of 16 pixels with noise, captions of a few words), with
names of their own, so that a large corpus takes no room. Each size is a process of its own, which scores all shards
along a random direction and writes their tables and canaries; peak memory is the operating system's (VmHWM), the
imports of torch included. Linear time means the same microseconds a pair, flat memory the same megabytes.

    python -m bench.growth --work DIR [--sizes 1000 10000 100000]
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

SHARD = 1_000
TARS = 4  # different ones
CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
_WORDS = ("red", "blue", "green", "large", "small", "old", "new", "cat", "dog", "car", "tree", "house")


def write_tar(path: Path, seed: int) -> None:
    """A tar of `SHARD` pairs."""
    generator = np.random.default_rng(seed)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(SHARD):
            picture = io.BytesIO()
            PIL.Image.fromarray(generator.integers(0, 256, (16, 16, 3), np.uint8)).save(picture, "JPEG")
            caption = " ".join(generator.choice(_WORDS, 5)).encode()
            record = json.dumps({"uid": f"{seed:016x}{number:016x}"}).encode()
            for extension, data in (("jpg", picture.getvalue()), ("txt", caption), ("json", record)):
                header = tarfile.TarInfo(f"{number:06d}.{extension}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))


def lay_out(folder: Path, pairs: int) -> list[Path]:
    """Shards of `pairs` pairs in all."""
    tars = [folder / f"tar-{number}.tar" for number in range(TARS)]
    for number, tar in enumerate(tars):
        if not tar.exists():
            write_tar(tar, number)
    raw = folder / "raw"
    shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir()
    shards = [raw / f"{number:06d}.tar" for number in range(pairs // SHARD)]
    for number, shard in enumerate(shards):
        shard.hardlink_to(tars[number % TARS])
    return shards


def one(work: Path, pairs: int) -> None:
    """Score one corpus in this process; prints seconds, CPU seconds, and peak memory in KiB before and after."""
    from bench.decoded import write_model
    from bench.endtoend import Scoring
    from ecif.stages import score
    from ecif.stages.upcoming import Upcoming

    shards = lay_out(work, pairs)
    model, weights = write_model(work, CONFIG)
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    scoring = Scoring(shards, model, weights, "heads", 128, out=str(out))
    before, started, cpu = peak(), time.perf_counter(), time.process_time()
    known = scoring.run.inventory.shards
    with Upcoming(scoring.run, scoring.engine, known) as upcoming:
        for shard in known:
            score.score_shard(scoring.run, scoring.engine, shard, scoring.direction, upcoming=upcoming)
    print(time.perf_counter() - started, time.process_time() - cpu, before, peak())


def peak() -> int:
    """Peak resident memory of this process, KiB."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.child:
        one(arguments.work, arguments.child)
        return
    head = f"{'seconds':>8} {'CPU s':>7} {'CPU us/pair':>12} {'peak MB':>8} {'of it loading':>14}"
    print(f"{'pairs':>9} {'shards':>7} {head}")
    for size in arguments.sizes:
        command = [sys.executable, "-W", "ignore", "-m", "bench.growth", "--work", str(arguments.work)]
        done = subprocess.run([*command, "--child", str(size)], check=True, capture_output=True, text=True)
        wall, cpu, before, after = map(float, done.stdout.splitlines()[-1].split())
        cells = f"{wall:8.1f} {cpu:7.1f} {cpu / size * 1e6:12,.0f} {after / 1024:8.0f} {before / 1024:14.0f}"
        print(f"{size:9,} {size // SHARD:7,} {cells}", flush=True)
    shutil.rmtree(arguments.work)


if __name__ == "__main__":
    main()
