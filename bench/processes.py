"""One process and two side by side over the same shards: whether a second `ecif score` on one machine gains anything.

Each process is a worker of its own that has loaded the model and waits for a word; then one scores all shards, or two
score half of them each, with one thread of torch and one that decodes. Loading is no part of it: it is paid once for
any number of shards. The rounds take turns. Wall seconds count here, as the question is what the cores of the machine
give together; `cores` is how many of them the processes really had, CPU seconds by wall seconds.

    python -m bench.processes --work DIR [--data DIR] [--model demo|twelve] [--pairs 1000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from bench.decoded import MODEL, write_model
from bench.endtoend import Scoring, corpus
from ecif import demo

SHARDS = 4
MICRO = 64


def worker(pipe: Connection, tars: list[Path], model: str, weights: str) -> None:
    """Score the shards at each word; answer with pairs and CPU seconds."""
    torch.set_num_threads(1)
    scoring = Scoring(tars, model, weights, "heads", MICRO, workers=1)
    pipe.send(None)
    while pipe.recv():
        started = time.process_time()
        pairs = scoring()
        pipe.send((pairs, time.process_time() - started))


class Team:
    """Processes that score their part of the shards at the same time."""

    def __init__(self, count: int, tars: list[Path], model: str, weights: str) -> None:
        spawn = multiprocessing.get_context("spawn")
        ends = [spawn.Pipe() for _ in range(count)]
        self.pipes = [mine for mine, _ in ends]
        parts = [tars[number::count] for number in range(count)]
        self.members = [
            spawn.Process(target=worker, args=(other, part, model, weights), daemon=True)
            for (_, other), part in zip(ends, parts, strict=True)
        ]
        for member in self.members:
            member.start()
        for pipe in self.pipes:
            pipe.recv()

    def score(self) -> dict[str, float]:
        """Pairs, wall seconds, and CPU seconds of all."""
        started = time.perf_counter()
        for pipe in self.pipes:
            pipe.send(True)
        answers = [pipe.recv() for pipe in self.pipes]
        wall = time.perf_counter() - started
        pairs, cpu = (float(sum(column)) for column in zip(*answers, strict=True))
        return {"pairs": pairs, "wall": wall, "cpu": cpu}

    def end(self) -> None:
        """Let all of them go."""
        for pipe in self.pipes:
            pipe.send(False)
        for member in self.members:
            member.join()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="a directory of tars of real pictures")
    parser.add_argument("--model", choices=("demo", "twelve"), default="demo", help="the demo's, or 12 layers")
    parser.add_argument("--pairs", type=int, default=1000, help="a quarter of them from each of up to 4 shards")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    tars = corpus(arguments.work, arguments.data, arguments.pairs, shards=SHARDS)
    config = MODEL
    if arguments.model == "demo":
        config = json.loads((Path(demo.__file__).parent / "model.json").read_text("utf-8"))
    model, weights = write_model(arguments.work, config)
    teams = {count: Team(count, tars, model, weights) for count in (1, 2)}
    found: dict[int, list[dict[str, float]]] = {count: [] for count in teams}
    for _ in range(arguments.rounds + 1):
        for count, team in teams.items():
            found[count].append(team.score())
    for team in teams.values():
        team.end()
    print(
        f"{os.cpu_count()} cores, one torch thread and one that decodes for each process, model {arguments.model}, "
        f"{found[1][0]['pairs']:.0f} pairs in {len(tars)} shards, {arguments.rounds} rounds in turn"
    )
    print(f"{'processes':>9} {'pairs/s':>8} {'ratio':>22} {'CPU ms a pair':>14} {'cores':>6}")
    for count, rounds in found.items():
        kept = rounds[1:]
        rates = [one["pairs"] / one["wall"] for one in kept]
        ratios = [base["wall"] / own["wall"] for own, base in zip(kept, found[1][1:], strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        cpu = statistics.median(one["cpu"] / one["pairs"] for one in kept) * 1e3
        cores = statistics.median(one["cpu"] / one["wall"] for one in kept)
        print(f"{count:9} {statistics.median(rates):8.1f} {ratio:>22} {cpu:14.2f} {cores:6.2f}")


if __name__ == "__main__":
    main()
