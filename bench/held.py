"""How much CPU time of a pair holds the interpreter, stage by stage: what bounds one process, whatever its cores.

Threads of one process run Python one at a time; libjpeg, resizing, SHA-256 and tensors let others run meanwhile. For
how long is counted where they say so, in `PyEval_SaveThread` and `PyEval_RestoreThread`: a library of a few lines of C
is put before the interpreter's own (LD_PRELOAD; it needs a C compiler, Linux, and an interpreter with a shared
libpython). It adds up the CPU time between the two calls, so that other work on the machine changes nothing. One thread
does everything in turn. The bound is a million by the microseconds that hold.

    python -m bench.held --work DIR [--data DIR] [--side 224] [--pairs 800] [--rounds 5]
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import torch

from bench.decoding import prepared
from ecif.shards.decode import Pair
from ecif.stages.engine import TASK
from ecif.stages.spool import image_digest

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <time.h>
static __thread int64_t since, apart;
static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}
void *PyEval_SaveThread(void) {
  static void *(*own)(void);
  if (!own) own = (void *(*)(void))dlsym(RTLD_NEXT, "PyEval_SaveThread");
  void *state = own();
  since = now();
  return state;
}
void PyEval_RestoreThread(void *state) {
  static void (*own)(void *);
  if (!own) own = (void (*)(void *))dlsym(RTLD_NEXT, "PyEval_RestoreThread");
  if (since) apart += now() - since;
  since = 0;
  own(state);
}
int64_t cpu(void) { return now(); }
int64_t let_go(void) { return apart; }
"""


def build(work: Path) -> Path:
    """Compile the library."""
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        raise SystemExit("this interpreter has no shared libpython: nothing can be put before it")
    source, library = work / "held.c", work / "held.so"
    source.write_text(_SOURCE, "utf-8")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def measure(library: ctypes.PyDLL, work: Callable[[], object], pairs: int) -> tuple[float, float]:
    """CPU microseconds a pair, and those of them that held the interpreter."""
    began, before = library.cpu(), library.let_go()
    work()
    spent, apart = library.cpu() - began, library.let_go() - before
    return spent / pairs / 1e3, (spent - apart) / pairs / 1e3


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="a directory of tars of real pictures")
    parser.add_argument("--side", type=int, default=224, help="pixels of the model's input")
    parser.add_argument("--pairs", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--library", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.library is None:
        arguments.work.mkdir(parents=True, exist_ok=True)
        library = build(arguments.work)
        command = [sys.executable, "-m", "bench.held", *sys.argv[1:], "--library", str(library)]
        raise SystemExit(subprocess.run(command, env={**os.environ, "LD_PRELOAD": str(library)}).returncode)
    counting = ctypes.PyDLL(str(arguments.library))  # calls of a CDLL would let go of the interpreter themselves
    counting.cpu.restype = counting.let_go.restype = ctypes.c_int64
    torch.set_num_threads(1)
    engine, samples = prepared(arguments.work, arguments.data, arguments.pairs, arguments.side)
    pairs = [sample for sample in samples() if isinstance(sample, Pair)]
    tasks = [pairs[start : start + TASK] for start in range(0, len(pairs), TASK)]
    tokenize = engine.towers.loaded.tokenize
    stages: dict[str, Callable[[], object]] = {
        "read": lambda: sum(1 for _ in samples()),
        "decode": lambda: [engine.decode(pair).dtype for pair in pairs],  # type: ignore[union-attr]
        "digest": lambda: [image_digest(pair.image) for pair in pairs],
        "tokenise": lambda: [tokenize([pair.caption for pair in task]) for task in tasks],
        "everything": lambda: sum(len(chunk.pairs) for chunk in engine.chunks(samples(), [])),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in stages}
    for _ in range(arguments.rounds + 1):
        for name, work in stages.items():
            found[name].append(measure(counting, work, len(pairs)))
    print(f"{len(pairs)} pairs, a model of {arguments.side} pixels, one thread, {arguments.rounds} rounds in turn")
    print(f"{'stage':>12} {'CPU us a pair':>14} {'with the interpreter held':>26} {'bound, pairs/s':>15}")
    for name, rounds in found.items():
        spent, held = (statistics.median(column) for column in zip(*rounds[1:], strict=True))
        values = [held for _, held in rounds[1:]]
        cell = f"{held:.0f} ({min(values):.0f} to {max(values):.0f})"
        print(f"{name:>12} {spent:14.0f} {cell:>26} {1e6 / held:15,.0f}")


if __name__ == "__main__":
    main()
