"""Projected gradients of every sample: their cost against training, in forward passes, and in memory.

Times are CPU seconds of this process. The variants take turns within a round, so that a slow moment of the machine
hits them alike, and a cell holds the median of the ratios within a round with the smallest and the largest. Gradients
are those of `removal` (both roles, exact), of one batch of the demo's pairs and model. For `all`, reverse mode by
coordinate is left out: it forms a token table for every sample and coordinate, some 50 passes for each coordinate.

    python -m bench.method speed --work DIR [--rounds 3] [--batch 64] [--epochs 12]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from bench.method.measures import spearman, table
from bench.prepared import Prepared, prepare
from ecif import contrastive, curvature, gradients, logra
from ecif.gradients import Role, States, forward_gradients, projected_gradients, reverse_gradients
from ecif.gradients.towers import embed
from ecif.logra import Projection
from ecif.settings import Settings
from ecif.stages.engine import load_engine
from ecif.stages.reading import read_pairs
from ecif.storage import Storage
from ecif.towers import Towers
from ecif.towers.loading import LoadedModel

PAIRS = 2000
EPOCHS = 12  # enough for hard negatives to exist
MICRO = 64
ROLES: tuple[Role, ...] = ("removal",)
RANKS = {"heads": 16, "last:1": 4, "all": 2}
HARDEST = (0, 1, 2, 4, 8, 16, 32)
Compute = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Subject:
    """A batch in front of towers: decoded inputs, and the states behind the stems."""

    towers: Towers
    images: Tensor
    captions: list[str]
    states: States

    def stems(self) -> States:
        """The frozen part, run again."""
        return [
            (self.towers.image_stem(self.images[i : i + MICRO]), self.towers.text_stem(self.captions[i : i + MICRO]))
            for i in range(0, len(self.captions), MICRO)
        ]

    def projection(self, rank: int) -> Projection:
        """Random, of all trainable parameters."""
        shapes = {name: tuple(p.shape) for name, p in self.towers.parameters.items()}
        return logra.build(shapes, rank, 10**6, 0, self.towers.device, self.towers.dtype)


def subject(demo: Prepared, trainable: str, batch: int, *, width: int | None = None, skip: int = 0) -> Subject:
    """A batch of the demo's pairs; with `width`, a random model of that embedding width in the place of its own."""
    settings = Settings(**demo.settings, trainable=trainable, out="unused", device="cpu")
    engine = load_engine(settings)
    images, captions = [], []
    for url in demo.sources:
        pairs = read_pairs(url, Path(url).stem, Storage(), settings.caption, engine.limits)
        for chunk in engine.chunks(pairs, []):
            images.append(chunk.images)
            captions += [pair.caption for pair in chunk.pairs]
        if len(captions) >= skip + batch:
            break
    towers = engine.towers
    if width is not None:
        config = json.loads(Path(demo.settings["model"]).read_text("utf-8")) | {"embed_dim": width}
        torch.manual_seed(0)
        network = open_clip.CLIP(**copy.deepcopy(config)).eval().requires_grad_(False)
        loaded = LoadedModel(network, engine.towers.loaded.transform, engine.towers.loaded.tokenize, "random")
        towers = Towers(loaded, trainable, torch.device("cpu"))
    found = Subject(towers, torch.cat(images)[skip : skip + batch], captions[skip : skip + batch], [])
    return Subject(towers, found.images, found.captions, found.stems())


def training_pass(of: Subject) -> None:
    """One forward and backward pass of the same batch, stems included: what a training step computes."""
    values = {name: p.clone().requires_grad_() for name, p in of.towers.parameters.items()}
    pairs = [of.towers.embed(values, *state) for state in of.stems()]
    u_BD, v_BD = (torch.cat([pair[side] for pair in pairs]) for side in (0, 1))
    scale = values["logit_scale"].exp() if "logit_scale" in values else of.towers.scale
    torch.autograd.grad(contrastive.batch_loss(contrastive.logits(u_BD, v_BD, scale)), list(values.values()))


def paths(of: Subject, project: Projection, states: States) -> dict[str, Callable[[], dict[Role, Tensor]]]:
    """The exact paths that exist for these parameters."""
    arguments = of.towers, states, project, ROLES
    general = {
        "forward mode": lambda: forward_gradients(*arguments),
        "reverse, by sample": lambda: reverse_gradients(*arguments, by="sample"),
        "reverse, by coordinate": lambda: reverse_gradients(*arguments, by="coordinate"),
    }
    if of.towers.trainable == "heads":
        return {"closed form": lambda: projected_gradients(*arguments)}
    if of.towers.trainable == "all":
        del general["reverse, by coordinate"]
    return general


def in_turn(variants: Mapping[str, Compute], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant in each round; a first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, compute in variants.items():
            started = time.process_time()
            compute()
            found[name].append(time.process_time() - started)
    return {name: seconds[1:] for name, seconds in found.items()}


def spread(numerators: list[float], denominators: list[float], digits: int = 2) -> str:
    """Median of the ratios within a round, with their smallest and largest."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return f"{statistics.median(ratios):.{digits}f} ({min(ratios):.{digits}f} to {max(ratios):.{digits}f})"


def against_training(demo: Prepared, batch: int, rounds: int) -> None:
    """Rates as ratios to a forward and backward pass of the batch."""
    rows = []
    for trainable, rank in RANKS.items():
        pairs = batch // 4 if trainable == "all" else batch
        of = subject(demo, trainable, pairs)
        project = of.projection(rank)

        def whole(path: str, of: Subject = of, project: Projection = project) -> Compute:
            return lambda: paths(of, project, of.stems())[path]()

        names = list(paths(of, project, of.states))
        variants: dict[str, Compute] = {
            "training": lambda of=of: training_pass(of),  # type: ignore[misc]
            "forward": lambda of=of: embed(of.towers, of.states),  # type: ignore[misc]
            **{name: whole(name) for name in names},
        }
        seconds = in_turn(variants, rounds)
        costs = gradients.path_costs(of.towers, of.states, project, ROLES)
        chosen = {"forward": names[0], "sample": names[1 % len(names)], "coordinate": names[2 % len(names)]}
        best = chosen[min(costs, key=lambda path: costs[path])]
        for name in names:
            rows.append(
                (
                    trainable,
                    f"{name}, chosen" if name == best else name,
                    str(pairs),
                    str(project.size),
                    f"{pairs / statistics.median(seconds[name]):,.0f}",
                    spread(seconds["training"], seconds[name], 3),
                    spread(seconds[name], seconds["forward"], 1),
                )
            )
    head = (
        "trainable",
        "path",
        "batch",
        "K",
        "samples / CPU s",
        "rate / that of a training pass",
        "forward passes of the tails",
    )
    table("Projected gradients, stems included", head, rows)


def scaling(demo: Prepared, rounds: int) -> None:
    """Costs in forward passes as the batch, the rank and the embedding grow."""
    rows = []
    for batch, rank, width in (
        (16, 4, 64), (32, 4, 64), (64, 4, 64), (128, 4, 64), (32, 2, 64), (32, 8, 64), (32, 4, 16), (128, 8, 16),
    ):  # fmt: skip
        of = subject(demo, "last:1", batch, width=width)
        project = of.projection(rank)
        variants: dict[str, Compute] = {"forward": lambda of=of: embed(of.towers, of.states)}  # type: ignore[misc]
        variants |= paths(of, project, of.states)
        seconds = in_turn(variants, rounds)
        cells = [spread(seconds[name], seconds["forward"], 0) for name in variants if name != "forward"]
        rows.append((str(batch), str(rank), str(width), str(project.size), *cells))
    head = ("batch", "rank", "embedding", "K", "forward mode", "reverse, by sample", "reverse, by coordinate")
    table("Cost of the exact paths in forward passes of the tails (last:1)", head, rows)


def truncation(demo: Prepared, batch: int, rounds: int) -> None:
    """What keeping only the hardest negatives of each sample costs and loses."""
    of, validation = subject(demo, "last:1", batch), subject(demo, "last:1", batch, skip=batch)
    project = of.projection(RANKS["last:1"])
    arguments = of.towers, of.states, project, ROLES
    exact_BK = reverse_gradients(*arguments)["removal"]
    held_out = reverse_gradients(validation.towers, validation.states, project, ("positive",))["positive"]
    moments = curvature.gram(held_out)
    ridge = 0.1 * moments.diagonal().mean() * torch.eye(len(moments), dtype=moments.dtype)
    w_K = torch.linalg.solve(moments + ridge, held_out.mean(0).to(moments.dtype)).to(exact_BK)
    variants: dict[str, Compute] = {"forward": lambda: embed(of.towers, of.states)}
    variants |= {str(r): lambda r=r: reverse_gradients(*arguments, hardest=r) for r in HARDEST}  # type: ignore[misc]
    variants |= {"all, exact": lambda: reverse_gradients(*arguments)}
    seconds = in_turn(variants, rounds)
    rows = []
    for name in [*map(str, HARDEST), "all, exact"]:
        got_BK = exact_BK if name == "all, exact" else reverse_gradients(*arguments, hardest=int(name))["removal"]
        errors = (got_BK - exact_BK).norm(dim=1) / exact_BK.norm(dim=1)
        rank = float(spearman((got_BK @ w_K).double().numpy(), (exact_BK @ w_K).double().numpy()))
        cost = spread(seconds[name], seconds["forward"], 0)
        rows.append((name, f"{float(errors.median()):.3f}", f"{float(errors.max()):.3f}", f"{rank:.3f}", cost))
    head = ("negatives kept", "relative L2 error, median", "largest", "rank correlation of influence", "forward passes")
    table(f"Gradients of removal from the hardest negatives only (last:1, batch of {batch})", head, rows)


def memory(work: Path, epochs: int, batches: tuple[int, ...]) -> None:
    """Peak memory of each path above what stood before it, each in a process of its own."""
    rows = []
    for trainable, path in (
        ("heads", "closed form"), ("last:1", "forward mode"), ("last:1", "reverse, by sample"),
        ("last:1", "reverse, by coordinate"), ("last:1", "training"),
    ):  # fmt: skip
        cells = []
        for batch in batches:
            case = json.dumps({"trainable": trainable, "path": path, "batch": batch})
            command = [sys.executable, "-m", "bench.method", "speed", "--work", str(work), "--epochs", str(epochs)]
            done = subprocess.run([*command, "--memory-of", case], check=True, capture_output=True, text=True)
            cells.append(f"{int(done.stdout.splitlines()[-1]) / 1024:.0f}")
        rows.append((trainable, path, *cells))
    table("Peak memory above the loaded model and batch, MiB", ("trainable", "path", *map(str, batches)), rows)


def peak(demo: Prepared, trainable: str, path: str, batch: int) -> int:
    """KiB that one computation adds to the resident memory of this process at its peak."""
    of = subject(demo, trainable, batch)
    project = of.projection(RANKS[trainable])
    compute = (lambda: training_pass(of)) if path == "training" else paths(of, project, of.states)[path]
    small = subject(demo, trainable, 2)
    embed(small.towers, small.states)  # what libraries allocate at their first call
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", "utf-8")
    compute()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this part."""
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the demo's model")
    parser.add_argument("--memory-of", type=json.loads, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> None:
    """Print the tables."""
    demo = prepare(arguments.work, PAIRS, epochs=arguments.epochs)
    if arguments.memory_of:
        wanted: dict[str, Any] = arguments.memory_of
        print(peak(demo, wanted["trainable"], wanted["path"], wanted["batch"]))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.rounds} rounds in turn")
    against_training(demo, arguments.batch, arguments.rounds)
    scaling(demo, arguments.rounds)
    truncation(demo, arguments.batch, arguments.rounds)
    memory(arguments.work, arguments.epochs, (arguments.batch, 4 * arguments.batch))
