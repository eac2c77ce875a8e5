"""How fast a shard is rewritten, against copying the same object through the same store.

The shards hold random bytes of the size of JPEGs with captions and metadata, 20 KB a sample. One tenth of the samples
goes. In each round all ways take their turn: `stream` reads and writes the object through `Storage` without parsing
it, `tool` copies it with the store's own tool (`shutil.copyfile` and fsync, or s3fs's `get_file` and `put_file`
through a temporary file), `rewrite` is `apply_shard`, which parses, selects, hashes and writes sidecars and manifest.
A ratio above 1 means that rewriting is faster than that copy. Memory is VmHWM of a process that only rewrites.

    python -m bench.copy --work DIR [--s3 ENDPOINT --key KEY --secret SECRET] [--sizes 64 256 1024 2048] [--rounds 5]
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import polars as pl

from ecif import inventory
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.policy.settings import PolicySettings
from ecif.selection import Decision, choose
from ecif.sources import expand
from ecif.stages.apply import apply_shard
from ecif.storage import Storage, is_remote

KEY = "b" * 12
BLOCK = 4 << 20


def make(path: Path, megabytes: int) -> int:
    """Write a shard of about so many MiB; returns its number of samples."""
    order = random.Random(megabytes)
    noise = order.randbytes(8 << 20)
    samples = 0
    with path.open("wb") as out:
        while out.tell() < megabytes << 20:
            key, size = f"{samples:09d}", order.randrange(10_000, 30_000)
            start = order.randrange(len(noise) - size)
            record = {"uid": f"{samples:032x}", "url": f"https://example.org/{key}.jpg", "width": 512, "key": key}
            members = {"jpg": noise[start : start + size], "txt": f"caption {key}".encode()}
            for extension, data in {**members, "json": json.dumps(record).encode()}.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                out.write(info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512))
            samples += 1
        out.write(bytes(1024 + -(out.tell() + 1024) % 10_240))
    return samples


def scored(samples: int, shard: str) -> bytes:
    """A score table, scores at random."""
    order = random.Random(samples)
    table = pl.DataFrame(
        {
            "uid": [f"{i:032x}" for i in range(samples)],
            "key": [f"{i:09d}" for i in range(samples)],
            "shard": [shard] * samples,
            "index": pl.Series(range(samples), dtype=pl.UInt32),
            "status": ["ok"] * samples,
            "clip_score": pl.Series([order.random() for _ in range(samples)], dtype=pl.Float32),
        }
    )
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def prepare(root: str, options: dict[str, Any], work: Path, megabytes: int) -> tuple[Shard, Decision]:
    """Put a shard and its scores under `root`, and decide to drop a tenth."""
    storage, layout = Storage(options), Layout(f"{root}/out")
    name = f"{megabytes:05d}"
    local = work / f"{name}.tar"
    samples = make(local, megabytes)
    storage.publish(f"{root}/in/{name}.tar", local)
    local.unlink()
    shard = inventory.take(expand([f"{root}/in/{name}.tar"], storage), layout, storage, {}).by_name()[name]
    scores = {shard.name: layout.scores(KEY, shard.name)}
    storage.publish(scores[shard.name], scored(samples, shard.name))
    policy = PolicySettings(detector="clip_score", drop=Decimal("0.1"))
    decision = choose(storage, scores, policy, key=KEY, score_key=KEY, fit_key=KEY)
    return shard, decision


def stream(shard: Shard, to: str, storage: Storage) -> None:
    """Copy through `Storage` without looking at the bytes."""
    with storage.open(shard.url) as source, storage.create(to) as writer:
        while block := source.read(BLOCK):
            writer.write(block)
        writer.finish()


def tool(shard: Shard, to: str, options: dict[str, Any], work: Path) -> None:
    """Copy as people do."""
    local = Path(to)
    if is_remote(shard.url):
        fs, local = fsspec.filesystem("s3", **options), work / "copy.tmp"
        fs.get_file(shard.url, str(local))
        fs.put_file(str(local), to)
        local.unlink()
        return
    local.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(shard.url, local)
    with local.open("rb") as copied:
        os.fsync(copied.fileno())


def rewrite(shard: Shard, decision: Decision, root: str, options: dict[str, Any]) -> None:
    """What is measured."""
    apply_shard(shard, decision, Layout(f"{root}/out"), Storage(options))


def clear(root: str, shard: Shard, storage: Storage) -> None:
    """Remove what a round has written."""
    layout = Layout(f"{root}/out")
    urls = [layout.tar(shard.name), layout.ledger(shard.name), layout.manifest(shard.name), f"{root}/copy.tar"]
    for url in urls:
        storage.delete(url)


def timed(work: Callable[[], None]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak(shard: Shard, decision: Decision, root: str, options: dict[str, Any]) -> float:
    """MiB of memory at most, of a process that only rewrites."""
    given = {"shard": dataclasses.asdict(shard), "decision": decision.to_json(), "root": root, "options": options}
    command = [sys.executable, "-m", "bench.copy", "--child"]
    done = subprocess.run(command, input=json.dumps(given), check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) / 1024


def child() -> None:
    """Rewrite what stdin describes, and print VmHWM in KiB."""
    given = json.loads(sys.stdin.read())
    rewrite(Shard(**given["shard"]), Decision.from_json(given["decision"], "stdin"), given["root"], given["options"])
    status = Path("/proc/self/status").read_text("utf-8")
    print(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")))


def measure(root: str, options: dict[str, Any], work: Path, megabytes: int, rounds: int) -> str:
    """One row of the table."""
    storage = Storage(options)
    shard, decision = prepare(root, options, work, megabytes)
    ways: dict[str, Callable[[], None]] = {
        "stream": lambda: stream(shard, f"{root}/copy.tar", storage),
        "rewrite": lambda: rewrite(shard, decision, root, options),
        "tool": lambda: tool(shard, f"{root}/copy.tar", options, work),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    try:
        ways["stream"]()  # warms caches and connections
        clear(root, shard, storage)
        for number in range(rounds):
            turn = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
            for way in turn:
                times[way].append(timed(ways[way]))
                clear(root, shard, storage)
        memory = peak(shard, decision, root, options)
    finally:
        clear(root, shard, storage)
        storage.delete(shard.url)
    size = shard.size / 2**20
    speeds = " | ".join(f"{size / statistics.median(found):,.0f}" for found in times.values())
    ratios = []
    for floor in ("stream", "tool"):
        found = [copied / written for copied, written in zip(times[floor], times["rewrite"], strict=True)]
        ratios.append(f"{statistics.median(found):.2f} ({min(found):.2f}..{max(found):.2f})")
    return f"| {'S3' if is_remote(root) else 'local'} | {size:,.0f} | {speeds} | {' | '.join(ratios)} | {memory:.0f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, help="a directory on the disk to measure, and for temporary files")
    parser.add_argument("--s3", help="endpoint of an object store; without it the disk is measured")
    parser.add_argument("--key")
    parser.add_argument("--secret")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256, 1024, 2048], help="MiB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child()
    arguments.work.mkdir(parents=True, exist_ok=True)
    root, options = str(arguments.work / "store"), {}
    if arguments.s3:
        options = {"endpoint_url": arguments.s3, "key": arguments.key, "secret": arguments.secret}
        root = f"s3://ecif-copy-{os.getpid()}"
        fsspec.filesystem("s3", **options).mkdir(root)
    print("| store | MiB | stream, MiB/s | rewrite, MiB/s | tool, MiB/s | to stream | to tool | peak memory, MiB |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    try:
        for size in arguments.sizes:
            print(measure(root, options, arguments.work, size, arguments.rounds), flush=True)
    finally:
        if arguments.s3:
            for file in Storage(options).list(root):
                Storage(options).delete(file.url)
            fsspec.filesystem("s3", **options).rmdir(root.removeprefix("s3://"))
        else:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
