"""Seconds and peak memory of `ecif plan` over generated score tables, by the number of pairs.

Tables of 10,000 pairs with the columns of `ecif score`, random scores and uids that compress (so that a hundred million
pairs take a few gigabytes), and an inventory of tars that do not exist: planning opens none. Each plan is a process of
its own, and its memory is the operating system's own figure (VmHWM), imports included. Everything lies in a temporary
directory, which is removed.

    python -m bench.planning --rows 1e6 1e7 1e8 [--work DIR] [--policy "--drop 0.1"] [--policy "--keep 0.3 --by shard"]
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl

from ecif import detectors
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.storage import Storage

PER_SHARD = 10_000
TAR_BYTES = PER_SHARD * 30_000
SCORES = "5" * 12
POLICIES = (
    "--drop 0.1 --detector influence",
    "--drop 0.1 --rank-by 'influence + 0.01 * clip_score' --where 'clip_score < 0.5'",
    "--keep 0.3 --by shard",
)
_RUN = """
import sys
from pathlib import Path
from ecif.cli import run
code = run(sys.argv[1:])
status = Path("/proc/self/status").read_text("utf-8")
print(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(code)
"""


def table(number: int, rows: int) -> pl.DataFrame:
    """One shard's scores: normal ones, with the uids of DataComp's form."""
    random = np.random.default_rng(number)
    columns: dict[str, pl.Series] = {
        "uid": pl.Series([f"{number:08x}{n:024x}" for n in range(rows)]),
        "key": pl.Series([f"{number:05d}{n:04d}" for n in range(rows)]),
        "shard": pl.Series([f"{number:05d}"] * rows),
        "index": pl.Series(np.arange(rows, dtype=np.uint32)),
        "batch": pl.Series(np.arange(rows, dtype=np.uint32) // 256),
        "position": pl.Series(np.arange(rows, dtype=np.uint32) % 256),
        "batch_n": pl.Series(np.full(rows, 256, dtype=np.uint32)),
        "status": pl.Series(["ok"] * rows),
    }
    columns |= {name: pl.Series(np.zeros(rows, dtype=np.float32)) for name in detectors.NAMES}
    columns["clip_score"] = pl.Series(random.normal(0.25, 0.07, rows).astype(np.float32))
    columns["influence"] = pl.Series(random.normal(0, 1e-6, rows).astype(np.float32))
    return pl.DataFrame(columns)


def fill(out: Path, rows: int) -> int:
    """Write an output with scores of so many pairs; the bytes of its tables."""
    layout, storage = Layout(str(out)), Storage()
    shards, size = [], 0
    for number in range(-(-rows // PER_SHARD)):
        name, held = f"{number:05d}", min(PER_SHARD, rows - number * PER_SHARD)
        target = Path(layout.scores(SCORES, name))
        target.parent.mkdir(parents=True, exist_ok=True)
        table(number, held).write_parquet(target)
        size += target.stat().st_size
        shards.append(asdict(Shard(name, f"/nowhere/{name}.tar", TAR_BYTES, name, held, None, None)))
    storage.publish_json(layout.inventory(0, "0" * 8), {"shards": shards, "missing": []})
    storage.publish_json(layout.score_meta(SCORES), {"settings": {}, "fit_key": "f" * 12, "versions": {}})
    return size


def measure(out: Path, policy: str) -> tuple[float, float, int]:
    """Seconds, peak memory in MB, and pairs that go."""
    command = [sys.executable, "-c", _RUN, "plan", str(out), *shlex.split(policy), "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    peak = int(done.stderr.split()[-1]) / 1024
    return seconds, peak, json.loads(done.stdout)["n_dropped"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6, 1e7])
    parser.add_argument("--work", type=Path, default=None, help="where the temporary directory is made")
    parser.add_argument("--policy", action="append", help="may be repeated")
    arguments = parser.parse_args()
    print(f"{'pairs':>12} {'tables, MB':>11} {'seconds':>8} {'peak MB':>8} {'dropped':>11}  policy", flush=True)
    for rows in map(int, arguments.rows):
        with tempfile.TemporaryDirectory(prefix="ecif-planning-", dir=arguments.work) as folder:
            size = fill(Path(folder), rows)
            for policy in arguments.policy or POLICIES:
                seconds, peak, dropped = measure(Path(folder), policy)
                line = f"{rows:>12,} {size / 1e6:>11,.0f} {seconds:>8.1f} {peak:>8,.0f} {dropped:>11,}  {policy}"
                print(line, flush=True)


if __name__ == "__main__":
    main()
