"""What --precision changes: the order of the scores, how well they find known mistakes, and the CPU seconds.

The demo's corpus is fitted and scored as a whole with each precision, then once more along the direction of the fp64
fit, so that what the scoring pass changes is told apart from what the fit changes. Only `influence` depends on the
fit. Ranks are compared with those of fp64; the truth judges, and decides nothing. Seconds are those of scoring the
first shard, input included; within a round the precisions take turns. A CPU has no TensorFloat-32: a row for it has
what the rounding of the operands does to fit and scores, and no time.

    python -m bench.precision --work DIR [--data DIR] [--trainable heads] [--shards 6] [--rounds 5]

The corpus and the model are those of `ecif demo` in WORK/demo/made, as in bench.calibration, made unless they are
there. With --data the pairs of its tars are scored, without AUROC, as there is no truth of them. The demo's model is
so small that its input takes a large part, so the towers of 12 layers of bench.decoded are timed, too, on decoded
tensors: stems and the derivative of `heads`, 32 pairs.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.calibration import material
from bench.decoded import MODEL, write_model
from bench.fitting import fit_whole
from bench.method.measures import spearman
from ecif import detectors
from ecif.demo.evaluation import auroc
from ecif.progress import Silent
from ecif.run import Run, open_run
from ecif.settings import ScoreSettings
from ecif.shards.decode import OK
from ecif.stages import score
from ecif.stages.engine import Engine, load_engine
from ecif.towers import Parameters, Towers, differentiable_attention

PRECISIONS = ("fp64", "fp32", "bf16")
TF32 = "tf32, emulated"
SCORES = ("clip_score", "neg_clip_loss", "influence")
FIT_OF_FP64 = "influence, fit of fp64"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A finished fit, and what scores along it."""

    run: Run
    engine: Engine
    direction: score.Direction

    @classmethod
    def make(cls, tars: Sequence[Path], settings: ScoreSettings) -> Fitted:
        """Fit anew, whatever an earlier one left."""
        shutil.rmtree(settings.out, ignore_errors=True)
        run = open_run([str(tar) for tar in tars], settings)
        engine = load_engine(run.settings)
        fit_whole(run, engine)
        return cls(run, engine, score.load_direction(run, engine))

    def along(self, other: Fitted) -> Fitted:
        """The same arithmetic along the direction of another fit, rounded to it."""
        dtype = self.engine.towers.dtype
        influence = {name: part.to(dtype) for name, part in other.direction.tensors.items()}
        sources = replace(self.direction.sources, directions={"influence": influence})
        return replace(self, direction=replace(self.direction, sources=sources))

    def scores(self, shards: int | None = None) -> pl.DataFrame:
        """Rows of the pairs that could be scored."""
        chosen = self.run.inventory.shards[:shards]
        frames = [score.score_frame(self.run, self.engine, one, self.direction, Silent())[0] for one in chosen]
        return pl.concat(frames).filter(pl.col("status") == OK)


class Rounded(TorchDispatchMode):
    """Operands of products of float32 matrices rounded to 10 bits of fraction, as a GPU's TensorFloat-32 takes them."""

    products = ("mm", "bmm", "addmm", "baddbmm", "convolution")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.products:
            added = 1 if name in ("addmm", "baddbmm") else 0  # what is added is no operand
            args = (*args[:added], *(_rounded(x) for x in args[added : added + 2]), *args[added + 2 :])
        return func(*args, **(kwargs or {}))


def _rounded(x: torch.Tensor) -> torch.Tensor:
    if x.dtype != torch.float32:
        return x
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


@contextmanager
def emulated(allowed: bool) -> Iterator[None]:
    """In the place of `towers.arithmetic.tensor_float`, which says nothing to a CPU."""
    with differentiable_attention(), Rounded():
        yield


def compare(
    tables: dict[str, pl.DataFrame], truth: pl.DataFrame | None, columns: Sequence[str]
) -> list[dict[str, Any]]:
    """One row per column and table: rank correlation with the first table, and AUROC of the same pairs."""
    rows = []
    for column in columns:
        reference = next(iter(tables.values())).select("uid", of_fp64=pl.col(column))
        for precision, table in tables.items():
            pairs = table.join(reference, on="uid", validate="1:1")
            rho = float(spearman(*(pairs[name].to_numpy().astype(np.float64) for name in (column, "of_fp64"))))
            row: dict[str, Any] = {"column": column, "precision": precision, "rho": rho, "pairs": len(pairs)}
            if truth is not None:
                judged = pairs.join(truth, on="uid", validate="1:1")
                badness = judged[column].to_numpy().astype(np.float64)
                sign = 1.0 if detectors.facts(column.partition(",")[0]).higher_is_worse else -1.0
                row["auroc"] = auroc(judged["misaligned"].to_numpy(), sign * badness)
            rows.append(row)
    return rows


def twelve(folder: Path) -> dict[str, Callable[[], object]]:
    """By precision, what scoring does with a micro-batch of decoded tensors and a model of 12 layers a tower."""
    model, weights = write_model(folder, MODEL)
    size, generator = MODEL["vision_cfg"]["image_size"], torch.Generator().manual_seed(0)
    images = torch.randn(32, 3, size, size, generator=generator)
    captions = [f"{number} brown dogs run along the beach" for number in range(len(images))]

    def micro_batch(towers: Towers, direction: Parameters) -> object:
        return towers.push_forward([direction], towers.image_stem(images), towers.text_stem(captions))

    found: dict[str, Callable[[], object]] = {}
    for precision in PRECISIONS:
        towers = load_engine(ScoreSettings(model=model, pretrained=weights, device="cpu", precision=precision)).towers
        direction = {name: 1e-3 * torch.randn_like(value) for name, value in towers.parameters.items()}
        found[precision] = partial(micro_batch, towers, direction)
    return found


def in_turn(title: str, variants: Mapping[str, Callable[[], object]], rounds: int) -> None:
    """Print CPU seconds and their ratios to fp32 within a round; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, work in variants.items():
            started = time.process_time()
            work()
            seconds[name].append(time.process_time() - started)
    print(f"\n{title}, {rounds} rounds in turn")
    print(f"{'precision':>9} {'CPU seconds':>12} {'to fp32':>8} {'min..max':>12}")
    for name, spent in seconds.items():
        ratios = [own / base for own, base in zip(spent[1:], seconds["fp32"][1:], strict=True)]
        spread = f"{min(ratios):.2f}..{max(ratios):.2f}"
        print(
            f"{name:>9} {statistics.median(spent[1:]):12.2f} {statistics.median(ratios):8.2f} {spread:>12}", flush=True
        )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="a directory of tars to score instead, whose truth is not known")
    parser.add_argument("--trainable", default="heads")
    parser.add_argument("--shards", type=int, help="score no more of them")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    root = arguments.work / "demo"
    root.mkdir(parents=True, exist_ok=True)
    tars, validation, options, known = material("demo", arguments.work, root, arguments.work)
    truth: pl.DataFrame | None = known
    if arguments.data is not None:
        tars, truth = sorted(arguments.data.glob("*.tar")), None
    named: dict[str, Any] = {name.removeprefix("--"): value for name, value in options.items()}
    named |= {"validation": (str(validation),), "trainable": arguments.trainable, "device": "cpu", "canaries": 0}
    fits = {
        precision: Fitted.make(
            tars[: arguments.shards],
            ScoreSettings(precision=precision, out=str(arguments.work / "precision" / precision), **named),
        )
        for precision in PRECISIONS
    }
    tables = {}
    for precision, one in fits.items():
        same = one.along(fits["fp64"]).scores().select("uid", pl.col("influence").alias(FIT_OF_FP64))
        tables[precision] = one.scores().join(same, on="uid", validate="1:1")
    with patch("ecif.towers.tensor_float", emulated):
        one = Fitted.make(tars[: arguments.shards], fits["fp32"].run.settings)
        same = one.along(fits["fp64"]).scores().select("uid", pl.col("influence").alias(FIT_OF_FP64))
        tables[TF32] = one.scores().join(same, on="uid", validate="1:1")
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} torch threads, trainable {arguments.trainable}, "
        f"{len(tables['fp64'])} pairs; to fp64"
    )
    print(f"{'column':24} {'precision':>14} {'pairs':>6} {'1 - rank correlation':>21} {'AUROC':>8}")
    for row in compare(tables, truth, (*SCORES, FIT_OF_FP64)):
        found = f"{row['auroc']:8.4f}" if "auroc" in row else f"{'':8}"
        print(f"{row['column']:24} {row['precision']:>14} {row['pairs']:6} {1 - row['rho']:21.1e} {found}", flush=True)
    first = {name: partial(one.scores, 1) for name, one in fits.items()}
    in_turn("scoring of the first shard", first, arguments.rounds)
    in_turn("12 layers a tower, decoded tensors", twelve(arguments.work / "precision"), arguments.rounds)


if __name__ == "__main__":
    main()
