"""Seconds and peak memory of what a run does before its first shard is scored, by step, each in a process of its own.

The memory is the operating system's own figure (VmHWM) less that of a process that has only imported; a step works on
the inventory that the steps before it left. Seconds are of the wall and of the CPU: on a busy machine the second tells
more, and on S3 neither holds the waiting (docs/scale.md counts the requests).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.scale import corpus, standins
from ecif import inventory
from ecif.layout import Layout
from ecif.run import Run, open_run
from ecif.stages import fit, score
from tasks.groups import Job, cache_key, split

GROUP = 60  # shards; ten minutes of ten seconds each


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement: seconds of wall and CPU, MB above what imports take, and what came out."""

    name: str
    seconds: float
    cpu: float
    peak: float
    found: int


def _open(root: str) -> Run:
    return open_run([f"{root}/raw"], corpus.settings(root, f"{root}/out"))


def _loaded(root: str) -> Run:
    """The run with its inventory as it was written, at the price of one shard's listing."""
    settings = corpus.settings(root, f"{root}/out")
    one = open_run([f"{root}/raw/{next(corpus.names(1))}.tar"], settings.model_copy(update={"out": f"{root}/one"}))
    layout = Layout(one.storage.check(f"{root}/out"))
    return replace(one, settings=settings, layout=layout, inventory=inventory.load(layout, one.storage))


def _listed(root: str) -> int:
    return len(_open(root).inventory.shards)


def _sample(root: str) -> Callable[[], int]:
    run = _loaded(root)
    return lambda: len(fit.freeze_sample(run).shards)


def _todo(root: str) -> Callable[[], int]:
    run = _loaded(root)
    _score_half(run)

    def step() -> int:
        done = score.done(run)
        return len([shard for shard in run.inventory.shards if shard.name not in done])

    return step


def _score_half(run: Run) -> None:
    """Half of the shards have a score table: a link to one that has bytes."""
    first: str | None = None
    for number, shard in enumerate(run.inventory.shards[::2]):
        url = run.layout.scores(run.score_key, shard.name)
        if os.path.exists(url):
            return
        if first is None or number % 30_000 == 0:
            run.storage.publish(url, standins.table(shard.name))
            first = url
        else:
            os.link(first, url)


def _groups(root: str) -> Callable[[], int]:
    run = _loaded(root)
    job = Job.of(run)
    return lambda: len({cache_key("score", job, group) for group in split(run.inventory.shards, lambda left: GROUP)})


# What is called to prepare, if anything, and what is measured.
STEPS: dict[str, Callable[[str], Callable[[], int]]] = {
    "inventory, first time": lambda root: lambda: _listed(root),
    "inventory, nothing new": lambda root: lambda: _listed(root),
    "inventory, loaded": lambda root: lambda: len(_loaded(root).inventory.shards),
    "sample of the fit": _sample,
    "to do: wanted less done": _todo,
    "groups and their keys": _groups,
}


def child(name: str, root: str) -> None:
    """One measurement, in this process."""
    before = peak()
    step = STEPS[name](root)
    wall, cpu = time.perf_counter(), time.process_time()
    found = step()
    took = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    print(json.dumps({"name": name, **took, "peak": peak() - before, "found": found}))


def peak() -> float:
    """Most memory that this process has had, in MB."""
    status = Path("/proc/self/status").read_text("utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def measure(work: Path, shards: int) -> list[Step]:
    """All steps on a corpus of so many shards, which is left in `work`; its output is made anew."""
    root = work / f"scale-{shards}"
    corpus.on_disk(root, shards)
    for folder in ("out", "one"):
        shutil.rmtree(root / folder, ignore_errors=True)
    return [_in_a_process(name, root) for name in STEPS]


def _in_a_process(name: str, root: Path) -> Step:
    command = [sys.executable, "-m", "bench.scale", "child", name, str(root)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    values: dict[str, Any] = json.loads(output.splitlines()[-1])
    return Step(**values)


def show(found: dict[int, list[Step]]) -> None:
    """Print the table."""
    print("| shards | step | result | seconds | CPU seconds | peak MB | bytes a shard |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for shards, steps in found.items():
        for s in steps:
            each = s.peak * 2**20 / shards
            print(
                f"| {shards:,} | {s.name} | {s.found:,} | {s.seconds:.1f} | {s.cpu:.1f} | {s.peak:.0f} | {each:,.0f} |"
            )
