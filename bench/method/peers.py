"""Projected per-sample gradients against two libraries for them, bergson and dattri.

They know losses that act on each sample alone, and linear layers, so that is what is compared: a plain transformer of
nn.Linear layers with a next-token loss, the same modules, the same projected size (rank x rank numbers a module, dense
random projections), the same batches, one thread. Processes take turns, round by round; the figure is CPU seconds for
all samples. That all three compute the same gradients is checked first, without projection.

The libraries live in an environment of their own, with the same release of torch:

    python -m venv peers-venv
    peers-venv/bin/pip install bergson==2.5.1 dattri==0.3.0 torch==RELEASE
    python -m bench.method peers --work DIR --peers-python peers-venv/bin/python

A second table shows what their quantity is for the contrastive loss (`bench.method.hook`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from bench.method.hook import hook_gradients
from bench.method.measures import spearman, table
from bench.method.speed import EPOCHS, PAIRS, subject
from bench.peers.plain import Sizes
from bench.prepared import prepare
from ecif.gradients import projected_gradients

ROOT = Path(__file__).resolve().parent.parent.parent
LIBRARIES = ("ecif", "bergson", "dattri", "training", "along")
# Those without a library, as the table calls them.
NAMED = {"training": "forward and backward pass", "along": "the derivative along one direction"}
SIZES = ({"rank": 16}, {"rank": 64}, {"width": 64, "layers": 6, "tokens": 32, "samples": 256, "rank": 8})


@dataclass(frozen=True, slots=True)
class Child:
    """One library's process, waiting for its turn."""

    process: subprocess.Popen[str]
    about: dict[str, Any]

    @classmethod
    def start(cls, library: str, python: Path, sizes: Sizes, log: IO[str]) -> Child:
        """Start the process and wait until it has warmed up.

        Raises:
            SystemExit: it ended instead; its log says why.
        """
        command = [str(python), "-W", "ignore", "-m", "bench.peers.collect", library, json.dumps(asdict(sizes))]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, cwd=ROOT, env=one_thread, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        return cls(process, _answer(process, log))

    def measure(self, log: IO[str]) -> dict[str, Any]:
        """One collection of all samples."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return _answer(self.process, log)

    def stop(self) -> None:
        """End the process."""
        self.process.communicate()


def _answer(process: subprocess.Popen[str], log: IO[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{' '.join(map(str, process.args[:5]))} ended early, see {log.name}")  # type: ignore[index]
    found: dict[str, Any] = json.loads(line)
    return found


def compare(python: Path, sizes: Sizes, rounds: int, log: IO[str]) -> None:
    """Print the table of times."""
    children = {
        name: Child.start(name, python if name in ("bergson", "dattri") else Path(sys.executable), sizes, log)
        for name in LIBRARIES
    }
    seconds: dict[str, list[float]] = {name: [] for name in children}
    size = {}
    try:
        for _ in range(rounds):
            for name, child in children.items():
                answer = child.measure(log)
                seconds[name].append(answer["cpu"])
                size[name] = answer["size"]
    finally:
        for child in children.values():
            child.stop()
    rows = []
    reference = torch.tensor(children["ecif"].about["norms"])
    for name, child in children.items():
        ratios = [theirs / ours for theirs, ours in zip(seconds[name], seconds["ecif"], strict=True)]
        norms = torch.tensor(child.about["norms"])
        same = "-" if name in NAMED else f"{float(((norms - reference) / reference).abs().max()):.0e}"
        rows.append(
            (
                NAMED.get(name) or f"{name} {child.about['version']}",
                child.about["torch"],
                f"{size[name]:,}" if size[name] else "-",
                same,
                f"{statistics.median(seconds[name]):.3f} ({min(seconds[name]):.3f} to {max(seconds[name]):.3f})",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            )
        )
    head = ("library", "torch", "numbers per sample", "difference of norms", "CPU s", "times ecif's, by round")
    title = (
        f"{sizes.samples} samples of {sizes.tokens} tokens in batches of {sizes.batch}; width {sizes.width}, "
        f"{sizes.layers} blocks; rank {sizes.rank}; {rounds} rounds"
    )
    table(title, head, rows)


def contrastive_quantity(work: Path, batch: int) -> None:
    """Print how far the per-row gradient of hooks is from what the method asks for."""
    rows = []
    for trainable, rank in (("heads", 16), ("last:1", 4)):
        of = subject(prepare(work, PAIRS, epochs=EPOCHS), trainable, batch)
        project = of.projection(rank)
        exact = projected_gradients(of.towers, of.states, project, ("positive", "removal"))
        hook_BK = hook_gradients(of.towers, of.states, project)
        direction_K = hook_BK.sum(0)  # grad L_batch
        for role, exact_BK in exact.items():
            cosine = torch.nn.functional.cosine_similarity(hook_BK, exact_BK, dim=1)
            error = (hook_BK - exact_BK).norm(dim=1) / exact_BK.norm(dim=1)
            rank_correlation = float(spearman(*(_along(x_BK, direction_K) for x_BK in (hook_BK, exact_BK))))
            cells = [f"{float(x):.2f}" for x in (cosine.median(), cosine.min(), error.median(), rank_correlation)]
            rows.append((trainable, f"grad {role.replace('positive', 'Pos')}", *cells))
    head = (
        "trainable", "against", "cosine, median", "smallest", "relative error, median", "rank correlation along grad L",
    )  # fmt: skip
    table(f"The per-row gradient of hooks for the contrastive loss, batch of {batch}", head, rows)


def _along(x_BK: Tensor, direction_K: Tensor) -> Any:
    return (x_BK @ direction_K).double().numpy()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this part."""
    parser.add_argument("--peers-python", type=Path, required=True, help="interpreter of their environment")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--sizes", type=json.loads, default=SIZES, help='of model and projection, as [{"width": 256, "rank": 16}, ...]'
    )


def run(arguments: argparse.Namespace) -> None:
    """Print both tables."""
    arguments.work.mkdir(parents=True, exist_ok=True)
    with (arguments.work / "peers.log").open("w", encoding="utf-8") as log:
        for sizes in arguments.sizes:
            compare(arguments.peers_python, Sizes(**sizes), arguments.rounds, log)
    contrastive_quantity(arguments.work, 64)
