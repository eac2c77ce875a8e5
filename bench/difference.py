"""What central differences change: the derivatives, the order of the scores, and how well they find known mistakes.

The demo's corpus is fitted with fp64 and exact derivatives. Along that one direction it is scored with fp64 and with
fp32, exactly, and with fp32 and `--derivative difference`; ranks are compared with those of fp64, and the truth judges
and decides nothing. A second table has the error of the derivatives of 256 pairs, relative to their length, at
multiples of the step that is chosen: how much room there is on either side.

    python -m bench.difference --work DIR [--trainable last:1 all] [--shards 6]

The corpus and the model are those of `ecif demo` in WORK/demo/made, made unless they are there. What it saves is in
bench.decoded.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.calibration import material
from bench.precision import SCORES, Fitted, compare
from ecif.run import Run, open_run
from ecif.settings import ScoreSettings
from ecif.stages.engine import Engine, load_engine
from ecif.stages.reading import read_pairs
from ecif.towers import Parameters, Towers
from ecif.towers.cut import State
from ecif.towers.difference import Differences

MULTIPLES = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
PAIRS = 256


def variants(tars: Sequence[Path], out: Path, named: dict[str, Any]) -> dict[str, Fitted]:
    """By name, what scores along the direction of the fp64 fit; that one first."""
    found: dict[str, Fitted] = {}
    for name, precision, derivative in (
        ("fp64, exact", "fp64", "exact"),
        ("fp32, exact", "fp32", "exact"),
        ("fp32, difference", "fp32", "difference"),
    ):
        settings = ScoreSettings(precision=precision, derivative=derivative, out=str(out / name[:4]), **named)
        if derivative == "exact":
            one = Fitted.make(tars, settings)
        else:
            run = open_run([str(tar) for tar in tars], settings)
            one = replace(found["fp32, exact"], run=run, engine=load_engine(run.settings))
        found[name] = one
    return {name: one.along(found["fp64, exact"]) for name, one in found.items()}


def states(run: Run, engine: Engine) -> tuple[State, State]:
    """The first pairs of the corpus behind the stems."""
    first = run.inventory.shards[0]
    samples = read_pairs(first.url, first.name, run.storage, run.settings.caption, engine.limits, first.info)
    chunk = next(iter(replace(engine, micro=replace(engine.micro, size=PAIRS)).chunks(samples, [])))
    return engine.towers.image_stem(chunk.images), engine.towers.text_stem(chunk.tokens)


def errors(towers: Towers, direction: Parameters, at: tuple[State, State]) -> list[tuple[float, float, float]]:
    """(multiple of the step, error of du, error of dv), relative to the lengths of the exact derivatives."""
    _, _, *exact = towers.push_forward([direction], *at)
    chosen = Differences(towers)
    chosen.push_forward([direction], *at)
    found = []
    for multiple in MULTIPLES:
        _, _, *own = chosen.scaled(multiple).push_forward([direction], *at)
        of_u, of_v = (float((a - b).norm() / b.norm()) for a, b in zip(own, exact, strict=True))
        found.append((multiple, of_u, of_v))
    return found


def main() -> None:
    """Print both tables for each choice of parameters."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--trainable", nargs="+", default=["last:1", "all"])
    parser.add_argument("--shards", type=int, help="use no more of them")
    arguments = parser.parse_args()
    root = arguments.work / "demo"
    root.mkdir(parents=True, exist_ok=True)
    tars, validation, options, truth = material("demo", arguments.work, root, arguments.work)
    named: dict[str, Any] = {name.removeprefix("--"): value for name, value in options.items()}
    named |= {"validation": (str(validation),), "device": "cpu", "canaries": 0}
    for trainable in arguments.trainable:
        out = arguments.work / "difference" / trainable.replace(":", "")
        found = variants(tars[: arguments.shards], out, {**named, "trainable": trainable})
        tables = {name: one.scores() for name, one in found.items()}
        print(f"torch {torch.__version__}, trainable {trainable}, {len(next(iter(tables.values())))} pairs; to fp64")
        print(f"{'column':16} {'derivative':18} {'1 - rank correlation':>21} {'AUROC':>8}")
        for row in compare(tables, truth, SCORES):
            print(f"{row['column']:16} {row['precision']:18} {1 - row['rho']:21.1e} {row['auroc']:8.4f}", flush=True)
        exact = found["fp32, exact"]
        at = states(exact.run, exact.engine)
        print(f"{'step':>8} {'error of du':>12} {'error of dv':>12}")
        for multiple, of_u, of_v in errors(exact.engine.towers, exact.direction.sources.directions["influence"], at):
            print(f"{multiple:8.2f} {of_u:12.1e} {of_v:12.1e}", flush=True)


if __name__ == "__main__":
    main()
