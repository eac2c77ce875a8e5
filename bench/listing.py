"""Time and peak memory of listing a large directory of shards, on disk and on an S3 server.

Each measurement is a process of its own; the memory is the operating system's own figure (VmHWM), next to that of a
process that lists an empty directory. `scan` goes through all files; `lookup` asks for every shard and its two
sidecars, and holds what it finds, as taking inventory does. The files are empty: listing does not read them.

    python -m bench.listing --work DIR [--files 100000] [--s3 ENDPOINT] [--objects 20000]

The keys for S3 come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY). A bucket is made for it, and
removed again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fsspec.asyn import sync

from ecif.storage import Storage
from ecif.storage.remote import filesystem

# What img2dataset leaves per shard.
ENDINGS = (".tar", ".parquet", "_stats.json")
AT_ONCE = 64


def names(count: int) -> Iterator[str]:
    """The files of so many shards."""
    for shard in range(count):
        for ending in ENDINGS:
            yield f"{shard:08d}{ending}"


def fill(folder: Path, count: int) -> None:
    """Make the files of `count` shards, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names(count):
        (folder / name).touch()


def on_all(prefix: str, options: dict[str, Any], method: str, count: int) -> None:
    """Send one request for each object of `count` shards, many at once."""
    fs = filesystem(prefix, options)
    bucket, _, folder = prefix.removeprefix("s3://").partition("/")

    async def run() -> None:
        left = names(count)

        async def work() -> None:
            for name in left:
                await fs._call_s3(method, Bucket=bucket, Key=f"{folder}/{name}")

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    sync(fs.loop, run)


def measure(what: str, prefix: str, options: dict[str, Any], count: int) -> dict[str, float]:
    """Seconds, peak memory in MB, and files found."""
    arguments = json.dumps([what, prefix, options, count])
    command = [sys.executable, "-m", "bench.listing", "--work", ".", "--child", arguments]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def child(what: str, prefix: str, options: dict[str, Any], count: int) -> None:
    """One measurement, in this process."""
    storage = Storage(options)
    start = time.perf_counter()
    if what == "scan":
        found = sum(1 for _ in storage.scan(prefix, ".tar"))
    else:
        folder = storage.check(prefix)
        found = len(storage.lookup([f"{folder}/{name}" for name in names(count)]))
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text("utf-8")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "found": found}))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--files", type=int, default=100_000, help="shards on disk, each of three files")
    parser.add_argument("--s3", metavar="ENDPOINT")
    parser.add_argument("--objects", type=int, default=20_000, help="objects on S3, three of them a shard")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*json.loads(arguments.child))
        return
    print("| place | files | call | found | seconds | peak MB | of which for listing |")
    print("|---|---:|---|---:|---:|---:|---:|")
    folder = arguments.work / f"listing-{arguments.files}"
    fill(folder, arguments.files)
    rows("disk", str(folder), {}, arguments.files)
    if arguments.s3:
        options = {"endpoint_url": arguments.s3}
        bucket, shards = f"ecif-listing-{os.getpid()}", arguments.objects // len(ENDINGS)
        fs = filesystem(f"s3://{bucket}", options)
        fs.mkdir(bucket)
        try:
            on_all(f"s3://{bucket}/listing", options, "put_object", shards)
            rows("S3", f"s3://{bucket}/listing", options, shards)
        finally:
            on_all(f"s3://{bucket}/listing", options, "delete_object", shards)
            fs.rmdir(bucket)


def rows(place: str, prefix: str, options: dict[str, Any], count: int) -> None:
    """Measure one place."""
    for what in ("scan", "lookup"):
        empty = measure(what, prefix + "-empty", options, 1)
        row = measure(what, prefix, options, count)
        print(
            f"| {place} | {count * len(ENDINGS):,} | `{what}` | {row['found']:,} | {row['seconds']:.1f} "
            f"| {row['peak']:.0f} | {max(0.0, row['peak'] - empty['peak']):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
