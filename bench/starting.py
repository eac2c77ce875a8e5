"""Seconds from loading a model to its first micro-batch, with threads that decode and with processes.

A process of its own for each round of each variant, in turn, from `load_engine` on; its own imports are over by then.

    python -m bench.starting --work DIR [--data DIR] [--model ViT-B-32] [--count 2] [--rounds 5]

    threads           two threads decode
    at loading        processes, whose program is started before the weights are read, as `ecif score` does it
    when needed       the same with the program started by the first samples
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch

from bench.endtoend import corpus
from bench.micro import model_files
from ecif.settings import ScoreSettings
from ecif.stages.engine import load_engine
from ecif.stages.reading import read_pairs
from ecif.storage import Storage


def once(config: str, weights: str, tars: list[str], count: int, early: bool) -> float:
    """Seconds of one round."""
    torch.set_num_threads(1)
    torch.zeros(1)  # what the first tensor of a process loads
    started = time.perf_counter()
    processes = count if early else 0
    settings = ScoreSettings(
        model=config, pretrained=weights, device="cpu", micro_batch=32, workers=2, processes=processes
    )
    engine = replace(load_engine(settings), processes=count)
    samples = chain.from_iterable(read_pairs(tar, tar, Storage(), "txt", engine.limits) for tar in tars)
    next(engine.chunks(samples, []))
    return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="a directory of tars of real pictures")
    parser.add_argument("--model", default="ViT-B-32", help="`twelve`, or a name of open_clip; the weights are random")
    parser.add_argument("--count", type=int, default=2, help="of processes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(once(*json.loads(arguments.child)))
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    tars = [str(tar) for tar in corpus(arguments.work, arguments.data, 256)]
    model, weights = model_files(arguments.model, arguments.work)
    variants = {"threads": (0, False), "at loading": (arguments.count, True), "when needed": (arguments.count, False)}
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(arguments.rounds + 1):
        for name, (count, early) in variants.items():
            given = json.dumps([model, weights, tars, count, early])
            command = [sys.executable, "-W", "ignore", "-m", "bench.starting", "--work", ".", "--child", given]
            ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=600)
            found[name].append(float(ended.stdout.split()[-1]))
    print(f"{arguments.model}, {arguments.count} processes, {arguments.rounds} rounds in turn")
    print(f"{'variant':>12} {'seconds':>8} {'ratio to threads':>24}")
    for name, seconds in found.items():
        ratios = [own / least for own, least in zip(seconds[1:], found["threads"][1:], strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:>12} {statistics.median(seconds[1:]):8.1f} {ratio:>24}")


if __name__ == "__main__":
    main()
