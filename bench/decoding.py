"""How many pairs a second threads and processes read, decode and tokenise, and what is left to the one that reads.

The input alone, `Engine.chunks` from the tars on, with nothing behind it: no forward pass, no scores. CPU microseconds
a pair are counted for all, and for the process that reads, which has the device to serve as well: what is left to it
bounds what it can feed, whatever the cores of the machine. For threads that bound is another one, see `bench.held`.

Rounds go through all variants in turn; medians, with the smallest and the largest. The seconds until the first
micro-batch, and the memory of the processes that were started for it, are shown apart, and are no part of the rates.

    python -m bench.decoding --work DIR [--data DIR] [--side 224] [--pairs 1600] [--rounds 5] [--counts 1 2]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch

from bench.decoded import MODEL, write_model
from bench.endtoend import corpus
from ecif.settings import ScoreSettings
from ecif.shards.decode import Pair, Refused
from ecif.stages.engine import Engine, load_engine
from ecif.stages.reading import read_pairs
from ecif.storage import Storage

Samples = Callable[[], Iterator[Pair | Refused]]


@dataclass(frozen=True, slots=True)
class Measured:
    """One round of one variant: pairs a second, CPU microseconds a pair of all processes and of the one that reads."""

    rate: float
    cpu: float
    reading: float


def descendants() -> list[str]:
    """Processes that this one has started, and theirs."""
    parents: dict[str, str] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            parents[stat.parent.name] = stat.read_text("utf-8").rpartition(")")[2].split()[1]
    found = [str(os.getpid())]
    for pid in found:  # which grows meanwhile
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def cpu_of(pid: str) -> float:
    """CPU seconds of a process."""
    fields = Path("/proc", pid, "stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100  # USER_HZ, which is 100 wherever Linux counts them


def memory_of(pid: str) -> float:
    """MB of a process; what several share is divided among them (PSS)."""
    lines = Path("/proc", pid, "smaps_rollup").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def measure(engine: Engine, samples: Samples) -> Measured:
    """Everything once."""
    before, own, started = sum(map(cpu_of, descendants())), time.process_time(), time.perf_counter()
    pairs = sum(len(chunk.pairs) for chunk in engine.chunks(samples(), []))
    wall, own = time.perf_counter() - started, time.process_time() - own
    others = sum(map(cpu_of, descendants())) - before
    return Measured(pairs / wall, (own + others) / pairs * 1e6, own / pairs * 1e6)


def spread(values: list[float], form: str) -> str:
    """Median (smallest to largest)."""
    middle, least, most = (format(value, form) for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({least} to {most})"


def prepared(work: Path, data: Path | None, pairs: int, side: int) -> tuple[Engine, Samples]:
    """An engine that decodes in the caller's thread, of a model with an input of `side` pixels, and the samples."""
    work.mkdir(parents=True, exist_ok=True)
    tars, storage = corpus(work, data, pairs), Storage()
    vision = {**MODEL["vision_cfg"], "image_size": side, "layers": 1, "patch_size": side // 2}
    model, weights = write_model(work, {**MODEL, "vision_cfg": vision})
    engine = load_engine(ScoreSettings(model=model, pretrained=weights, device="cpu", workers=0, micro_batch=128))

    def samples() -> Iterator[Pair | Refused]:
        return chain.from_iterable(read_pairs(str(tar), tar.name, storage, "txt", engine.limits) for tar in tars)

    return engine, samples


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="a directory of tars of real pictures")
    parser.add_argument("--side", type=int, default=224, help="pixels of the model's input")
    parser.add_argument("--pairs", type=int, default=1600)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2], help="of threads, and of processes")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    alone, samples = prepared(arguments.work, arguments.data, arguments.pairs, arguments.side)
    engines = {"the caller's thread": alone}
    engines |= {f"{count} threads": replace(alone, workers=count) for count in arguments.counts}
    engines |= {f"{count} processes": replace(alone, processes=count) for count in arguments.counts}
    starting: dict[str, tuple[float, float]] = {}
    for name, engine in engines.items():
        before, started = set(descendants()), time.perf_counter()
        next(engine.chunks(samples(), []))
        seconds = time.perf_counter() - started
        starting[name] = seconds, sum(memory_of(pid) for pid in descendants() if pid not in before)
    found: dict[str, list[Measured]] = {name: [] for name in engines}
    for _ in range(arguments.rounds + 1):
        for name, engine in engines.items():
            found[name].append(measure(engine, samples))
    kept = {name: rounds[1:] for name, rounds in found.items()}
    first = kept[next(iter(kept))]
    print(f"{arguments.pairs} pairs, a model of {arguments.side} pixels, {arguments.rounds} rounds in turn")
    print(f"{'variant':>20} {'pairs/s':>8} {'ratio':>22} {'CPU us':>7} {'reading':>8} {'start s':>8} {'MB':>5}")
    for name, rounds in kept.items():
        seconds, memory = starting[name]
        ratio = spread([one.rate / base.rate for one, base in zip(rounds, first, strict=True)], ".2f")
        rate, cpu, reading = (
            statistics.median(getattr(one, field) for one in rounds) for field in ("rate", "cpu", "reading")
        )
        print(f"{name:>20} {rate:8,.0f} {ratio:>22} {cpu:7.0f} {reading:8.0f} {seconds:8.1f} {memory:5.0f}")


if __name__ == "__main__":
    main()
