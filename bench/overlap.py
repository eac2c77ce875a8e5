"""How much of reading and decoding is hidden behind a device: a stand-in that sleeps, so that the cores are free.

That is what a GPU looks like from here: a micro-batch takes as long as it takes, and what follows the last sample of a
shard (the algebra of its batches, its table) is another wait. The rates of the stand-in are multiples of what the input
can do alone. If everything overlaps, the loop takes as long as the slower of the two; the table has that bound as a
share of the seconds that each loop took: `none` decodes in the thread that waits for the device, `within` overlaps
inside a shard, `across` also begins the next shard while one is finished, which is what `ecif score` does.

Rounds go through all loops in turn; medians, with the smallest and the largest.

    python -m bench.overlap --work DIR [--data DIR] [--pairs 1000] [--shards 2] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.decoded import write_model
from bench.endtoend import Scoring, corpus
from bench.growth import CONFIG
from ecif.inventory import Shard
from ecif.stages.engine import Engine
from ecif.stages.upcoming import Upcoming

SPEEDS = (0.5, 1.0, 2.0)  # of the device, in multiples of the input's
FINISH = 0.1  # of the device's time, behind the last sample of a shard


def loop(of: Scoring, engine: Engine, shards: Sequence[Shard], rate: float, *, across: bool) -> float:
    """Seconds of all shards, with a device that takes `1 / rate` seconds a pair."""
    started = time.perf_counter()
    with Upcoming(of.run, engine, shards) as upcoming:
        for shard in shards:
            count = 0
            for chunk in engine.chunks(upcoming.take(shard), []):
                time.sleep(len(chunk.pairs) / rate * (1 - FINISH))
                count += len(chunk.pairs)
            if across:
                upcoming.through(shard)
            time.sleep(count / rate * FINISH)
    return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="a directory of tars of real pictures")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    tars = corpus(arguments.work, arguments.data, arguments.pairs, arguments.shards)
    of = Scoring(tars, *write_model(arguments.work, CONFIG), "heads", 32)
    shards, engine = of.run.inventory.shards, of.engine
    alone = replace(engine, workers=0)
    input_rates: list[float] = []
    loops = ("none", "within", "across")
    found: dict[tuple[float, str], list[float]] = {(speed, name): [] for speed in SPEEDS for name in loops}
    for _ in range(arguments.rounds + 1):
        rate = arguments.pairs / loop(of, engine, shards, 1e9, across=True)
        input_rates.append(rate)
        for speed in SPEEDS:
            bound = arguments.pairs / rate * max(1, 1 / speed)
            found[speed, "none"].append(bound / loop(of, alone, shards, speed * rate, across=False))
            found[speed, "within"].append(bound / loop(of, engine, shards, speed * rate, across=False))
            found[speed, "across"].append(bound / loop(of, engine, shards, speed * rate, across=True))
    print(
        f"input alone: {statistics.median(input_rates[1:]):,.0f} pairs/s in {engine.workers} threads; "
        f"{arguments.pairs} pairs in {len(shards)} shards, {arguments.rounds} rounds in turn"
    )
    print(f"{'device / input':>15} {'overlap':>8} {'share of the bound':>19} {'min..max':>12}")
    for (speed, name), shares in found.items():
        spread = f"{min(shares[1:]):.2f}..{max(shares[1:]):.2f}"
        print(f"{speed:15.1f} {name:>8} {statistics.median(shares[1:]):19.2f} {spread:>12}")


if __name__ == "__main__":
    main()
