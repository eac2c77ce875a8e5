"""Seconds, peak memory and readings of what is done with score tables after scoring, by the number of pairs.

Generated tables with the columns of `ecif score`, random scores and uids that compress (so that a hundred million
pairs take a few gigabytes), and an inventory of tars that do not exist: none is opened. Each measurement is a process
of its own, and its memory is the operating system's own figure (VmHWM) less that of the imports. Everything lies in a
temporary directory, which is removed.

    plan    the cut and the guard, as `ecif plan` does both
    report  what the report takes from the tables
    judge   what happens to each pair, as `ecif apply` asks for every shard before it copies
    sort    the k-th pair by polars' streaming engine alone: filter, sort by score and identity, one row of the result

`--before` measures another checkout of this repository beside this one, in turns, and prints the ratio; `--wait` lets
every reading of a file wait so long, as an object store would.

    python -m bench.planning --rows 1e5 1e6 1e7 [--per-shard 10000] [--work DIR] [--before DIR] [--wait 0.03]
        [--steps plan report judge sort] [--rounds 3] [--policy "--drop 0.1 --detector influence"]
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ecif import detectors
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.storage import Storage

ROOT = Path(__file__).resolve().parent.parent
PAIR_BYTES = 30_000  # of a tar
SCORES = "5" * 12
STEPS = ("plan", "report", "judge", "sort")
POLICY = "--drop 0.1 --detector influence"
# Runs one step with the package that PYTHONPATH names, which may be an older one: only what both have is used.
_RUN = """
import contextlib, io, json, sys, time
from collections import Counter
from pathlib import Path
import polars as pl
from ecif import inventory
from ecif.cli import run
from ecif.layout import Layout
from ecif.progress import Silent
from ecif.report.gather import gather
from ecif.scores import IDENTITY
from ecif.stages.plan import load_decision
from ecif.storage import Storage
from ecif.storage.view import View
from ecif.verdicts import judge, read_scores
import ecif.stages.outcome

def peak():
    status = Path("/proc/self/status").read_text("utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))

step, out, wait, arguments = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:]
reads, size, read_bytes = Counter(), [0], View.read_bytes

def counted(self, url):
    time.sleep(wait)
    data = read_bytes(self, url)
    if "/_ecif/scores/" in url and url.endswith(".parquet"):
        reads[url] += 1
        size[0] += len(data)
    return data

View.read_bytes = counted
layout, storage, before = Layout(out), Storage(), peak()
wall, cpu = time.perf_counter(), time.process_time()
if step == "plan":
    with contextlib.redirect_stdout(io.StringIO()):
        assert run(["plan", out, *arguments, "--json"]) == 0
elif step == "report":
    decision = load_decision(layout, storage)
    gather(layout, storage, inventory.load(layout, storage), decision, decision.score_key, {}, Silent())
elif step == "judge":
    decision = load_decision(layout, storage)
    for shard in inventory.load(layout, storage).shards:
        judge(read_scores(shard, decision, layout, storage)[0], decision)
else:
    decision = load_decision(layout, storage)
    tables = pl.scan_parquet(f"{layout.scores_of(decision.score_key)}/*.parquet")
    worst = tables.filter(pl.col("status") == "ok").select(decision.detector, *IDENTITY)
    worst = worst.sort(decision.detector, *IDENTITY, descending=[decision.higher_is_worse, *[False] * 4])
    row = worst.slice(decision.n_dropped - 1, 1).collect(engine="streaming").row(0)
    assert (row[0], row[1:]) == (decision.threshold, decision.tie)
times = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps([*times, peak() - before, sum(reads.values()), size[0]]), file=sys.stderr)
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """One step: seconds of wall and CPU, KiB above the imports, readings of score tables and bytes that they gave."""

    seconds: float
    cpu: float
    peak: int
    reads: int
    read_bytes: int


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


def fill(out: Path, rows: int, per_shard: int) -> int:
    """Write an output with scores of so many pairs; the bytes of its tables."""
    layout, storage = Layout(str(out)), Storage()
    shards, size = [], 0
    for number in range(-(-rows // per_shard)):
        name, held = f"{number:05d}", min(per_shard, rows - number * per_shard)
        target = Path(layout.scores(SCORES, name))
        target.parent.mkdir(parents=True, exist_ok=True)
        table(number, held).write_parquet(target)
        size += target.stat().st_size
        shards.append(asdict(Shard(name, f"/nowhere/{name}.tar", held * PAIR_BYTES, name, held, None, None)))
    storage.publish_json(layout.inventory(0, "0" * 8), {"shards": shards, "missing": []})
    storage.publish_json(layout.score_meta(SCORES), {"settings": {}, "fit_key": "f" * 12, "versions": {}})
    return size


def measure(tree: Path, step: str, out: Path, policy: str, wait: float) -> Measured:
    """Run one step with the package of a checkout; what it left before is forgotten."""
    for folder in ("decision", "plan", "rollup")[0 if step == "plan" else 2 :]:
        shutil.rmtree(out / "_ecif" / folder, ignore_errors=True)
    command = [sys.executable, "-c", _RUN, step, str(out), str(wait), *shlex.split(policy)]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tree, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return Measured(*json.loads(done.stderr.splitlines()[-1]))


def compare(now: Sequence[Measured], before: Sequence[Measured], pairs: int, shards: int) -> list[str]:
    """Cells of the table: medians, and those of the ratios round by round."""
    middle = [statistics.median(values) for values in zip(*([*asdict(one).values()] for one in now), strict=True)]
    seconds, cpu, peak, reads, size = middle
    cells = [f"{seconds:.2f}", f"{cpu:.2f}", f"{cpu / pairs * 1e6:.2f}", f"{peak / 1024:,.0f}"]
    cells += [f"{reads / shards:.2f}", f"{size / 1e6:,.1f}"]
    if before:
        for name in ("seconds", "cpu", "peak", "reads"):
            ratios = [getattr(a, name) / max(1e-9, getattr(b, name)) for a, b in zip(now, before, strict=True)]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return cells


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=float, nargs="+", default=[1e5, 1e6])
    parser.add_argument("--per-shard", type=int, nargs="+", default=[10_000], help="pairs of a table")
    parser.add_argument("--work", type=Path, default=None, help="where the temporary directory is made")
    parser.add_argument("--policy", action="append", help="may be repeated")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=["plan", "report", "judge"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--wait", type=float, default=0.0, help="seconds that every reading of a file waits")
    parser.add_argument("--before", type=Path, help="another checkout to measure beside this one")
    given = parser.parse_args()
    head = ["pairs", "a table", "step", "seconds", "CPU s", "CPU us a pair", "peak MB", "reads a table", "MB read"]
    head += [f"{name}, ratio" for name in ("seconds", "CPU", "peak", "reads")] if given.before else []
    print(f"| {' | '.join(head)} |\n|---:|---:|---|{'---:|' * (len(head) - 3)}", flush=True)
    for rows in map(int, given.rows):
        for per_shard in given.per_shard:
            with tempfile.TemporaryDirectory(prefix="ecif-planning-", dir=given.work) as folder:
                fill(Path(folder), rows, per_shard)
                for policy in given.policy or [POLICY]:
                    _rows(Path(folder), rows, per_shard, policy, given)


def _rows(out: Path, rows: int, per_shard: int, policy: str, given: argparse.Namespace) -> None:
    """Measure all steps of one corpus and policy, and print them."""
    for step in given.steps:
        # polars alone is the same in both, and its own readings are not counted.
        trees = [ROOT, *([given.before.resolve()] if given.before and step != "sort" else [])]
        found: list[list[Measured]] = [[] for _ in trees]
        for _ in range(given.rounds):
            for tree, results in zip(trees, found, strict=True):
                results.append(measure(tree, step, out, policy, given.wait))
        cells = compare(found[0], found[1] if len(trees) > 1 else [], rows, -(-rows // per_shard))
        if step == "sort":
            cells = [*cells[:4], "-", "-", *(["-"] * 4 if given.before else [])]
        name = step if policy == POLICY or step != "plan" else f"plan `{policy}`"
        print(f"| {rows:,} | {per_shard:,} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
