"""The micro-batch: what the estimate of its memory is worth, and which size is fast enough.

`memory`: peak of the resident memory above what was there after loading (VmHWM of /proc/self/status, set back by
/proc/self/clear_refs), each in a process of its own, beside the estimate by which the default is chosen. `score` is
stems and derivative, `fit` stems and a pull-back along one cotangent. The larger one once more with every tensor of
64 KiB and more given back to the system as soon as it is freed, which glibc does not do by itself: what tensors take.

`rate`: pairs per CPU second of stems and derivative by micro-batch, decoded tensors, 12 layers a tower. The sizes take
turns; the table holds medians of the ratios of a round to the largest size, with the smallest and the largest.

`load`: CPU seconds of loading with a given micro-batch and with one that is found, in turns.

The weights are random, which changes neither.

    python -m bench.micro memory [--sizes 8 32] [--models twelve ViT-B-32] [--trainable heads last:1 all]
    python -m bench.micro rate [--sizes 1 2 4 8 16 32 64 128 256] [--trainable heads] [--rounds 3]
    python -m bench.micro load [--models ViT-B-32] [--trainable heads last:1 all] [--rounds 3]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.decoded import MODEL, write_model
from bench.method.speed import in_turn, spread
from ecif.settings import ScoreSettings
from ecif.stages.engine import Engine, load_engine
from ecif.towers import Parameters, Towers
from ecif.towers.footprint import footprint

WORKS = ("score", "fit")
GIVEN_BACK = 2**16  # bytes from which on glibc maps an allocation by itself


def model_files(name: str, folder: Path) -> tuple[str, str]:
    """Model and random weights of `twelve` or of one of open_clip's names."""
    if name == "twelve":
        return write_model(folder, MODEL)
    weights = folder / f"{name}.safetensors"
    torch.manual_seed(0)
    network: Any = open_clip.create_model(name, load_weights=False, pretrained_image=False)
    save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, weights)
    return name, str(weights)


def engine_of(model: str, weights: str, trainable: str, micro: int | None = 1) -> Engine:
    """On the CPU."""
    settings = ScoreSettings(model=model, pretrained=weights, trainable=trainable, device="cpu", micro_batch=micro)
    return load_engine(settings, say=lambda text: None)


def inputs(towers: Towers, samples: int) -> tuple[Tensor, Tensor]:
    """Pictures as bytes, and tokens."""
    height, width = towers.size
    return torch.zeros((samples, height, width, 3), dtype=torch.uint8), towers.loaded.tokenize(["a dog"] * samples)


def scoring(towers: Towers, along: Parameters, images: Tensor, tokens: Tensor) -> object:
    """What scoring does with a micro-batch."""
    return towers.push_forward([along], towers.image_stem(images), towers.text_stem(tokens))


def in_parts(towers: Towers, along: Parameters, images: Tensor, tokens: Tensor, size: int) -> None:
    """All of them, so many at once."""
    for some in zip(images.split(size), tokens.split(size), strict=True):
        scoring(towers, along, *some)


def fitting(towers: Towers, images: Tensor, tokens: Tensor) -> object:
    """What the fit does with one, twice for its embeddings and for their cotangents."""
    states = towers.image_stem(images), towers.text_stem(tokens)
    with torch.no_grad():
        u_BD, v_BD = towers.embed(towers.parameters, *states)
    return towers.pull_back(*states, [(u_BD, v_BD)])


def resident(field: str) -> int:
    """VmHWM or VmRSS of this process, bytes."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def measured(work: str, model: str, weights: str, trainable: str, samples: int) -> tuple[int, int]:
    """In this process: peak above what was there before, and the estimate, bytes."""
    towers = engine_of(model, weights, trainable).towers
    along = {name: torch.full_like(value, 1e-3) for name, value in towers.parameters.items()}

    def run(count: int) -> object:
        pair = inputs(towers, count)
        return scoring(towers, along, *pair) if work == "score" else fitting(towers, *pair)

    run(1)
    estimate = footprint(towers).of(samples)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    run(samples)
    return resident("VmHWM") - before, estimate


def memory(names: list[str], choices: list[str], sizes: list[int]) -> None:
    """Print the table of peaks."""
    head = "estimate, MB | score, MB | fit, MB | estimate / larger | the same, all given back"
    print(f"| model | trainable | micro-batch | {head} |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            files = model_files(name, Path(folder))
            for trainable in choices:
                for size in sizes:
                    given = [*files, trainable, str(size)]
                    both = {work: peak([work, *given]) for work in WORKS}
                    larger = max(both, key=lambda work: both[work][0])
                    most, estimate = both[larger]
                    live, _ = peak([larger, *given], {"MALLOC_MMAP_THRESHOLD_": str(GIVEN_BACK)})
                    cells = " | ".join(
                        f"{value / 2**20:,.0f}" for value in (estimate, *(one for one, _ in both.values()))
                    )
                    ratios = f"{estimate / most:.2f} | {estimate / live:.2f}"
                    print(f"| {name} | {trainable} | {size} | {cells} | {ratios} |", flush=True)


def peak(given: list[str], environment: Mapping[str, str] = MappingProxyType({})) -> tuple[int, int]:
    """`measured` in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-m", "bench.micro", "child", "--child", *given],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        env={**os.environ, **environment},
    )
    most, estimate = map(int, ended.stdout.split()[-2:])
    return most, estimate


def rate(choices: list[str], sizes: list[int], rounds: int) -> None:
    """Print the table of rates."""
    print("| trainable | micro-batch | pairs per CPU second | ratio |")
    print("|---|---:|---:|---:|")
    pairs = max(sizes)
    with tempfile.TemporaryDirectory() as folder:
        files = model_files("twelve", Path(folder))
        for trainable in choices:
            towers = engine_of(*files, trainable).towers
            along = {name: torch.full_like(value, 1e-3) for name, value in towers.parameters.items()}
            images, tokens = inputs(towers, pairs)

            works = {str(size): partial(in_parts, towers, along, images, tokens, size) for size in sizes}
            found = in_turn(works, rounds)
            for size, spent in found.items():
                cells = f"{pairs / statistics.median(spent):.1f} | {spread(found[str(pairs)], spent, 3)}"
                print(f"| {trainable} | {size} | {cells} |", flush=True)


def load(names: list[str], choices: list[str], rounds: int) -> None:
    """Print what finding the micro-batch adds to loading."""
    print("| model | trainable | loading, CPU s | with the estimate, of that |")
    print("|---|---|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            files = model_files(name, Path(folder))
            for trainable in choices:
                found = in_turn(
                    {
                        kind: partial(engine_of, *files, trainable, micro)
                        for kind, micro in (("given", 1), ("found", None))
                    },
                    rounds,
                )
                cells = f"{statistics.median(found['given']):.2f} | {spread(found['found'], found['given'])}"
                print(f"| {name} | {trainable} | {cells} |", flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("table", choices=("memory", "rate", "load", "child"))
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--models", nargs="+", default=["twelve", "ViT-B-32"])
    parser.add_argument("--trainable", nargs="+", default=["heads", "last:1", "all"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.table == "child":
        work, model, weights, trainable, samples = given.child
        print(*measured(work, model, weights, trainable, int(samples)))
    elif given.table == "memory":
        memory(given.models, given.trainable, given.sizes or [8, 32])
    elif given.table == "rate":
        rate(given.trainable, given.sizes or [2**power for power in range(9)], given.rounds)
    else:
        load(given.models, given.trainable, given.rounds)


if __name__ == "__main__":
    main()
