"""What a smaller micro-batch does to scores: differences of the influence, by micro-batch and precision.

When memory runs out, the micro-batch is halved and the work goes on. Here the same small corpus is scored with each
micro-batch from its start, along the direction of one fit and (--fit) of a fit with that micro-batch, which is the most
that a halving can change, and held against the first one.

    python -m bench.oom --work DIR [--pairs 512] [--micro-batches 128 64 16 4 1] [--trainable heads last:1]
        [--precisions fp32 fp64 bf16] [--bases pca random] [--fit]
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from bench.fitting import fit_whole
from bench.prepared import Prepared, prepare
from ecif.run import Run, open_run
from ecif.settings import ScoreSettings
from ecif.stages import score
from ecif.stages.embedding import embed_shard
from ecif.stages.engine import Engine, load_engine
from ecif.stages.pulls import influences

SETTINGS: dict[str, Any] = {"batch_size": 64, "segmentations": 2, "sketches": 4}


def fitted(demo: Prepared, out: Path, **changes: Any) -> tuple[Run, Engine]:
    """A run with a direction."""
    run = open_run(demo.sources, ScoreSettings(**demo.settings, out=str(out), device="cpu", workers=0, **changes))
    engine = load_engine(run.settings)
    fit_whole(run, engine)
    return run, engine


def influence(run: Run, engine: Engine, size: int) -> np.ndarray:
    """Influence of all scored pairs, float64, before the rounding of the score files, (N,)."""
    engine.micro.size = size
    direction = score.load_direction(run, engine).tensors
    parts = []
    for shard in run.inventory.shards:
        found = embed_shard(run, engine, shard, [direction])
        assert found.embedded is not None
        positive, negative, _ = influences(found.embedded, [pair.key for pair in found.pairs], run.settings)
        parts.append((positive + negative)[0])
    return torch.cat(parts).numpy()


def row(found: np.ndarray, wanted: np.ndarray) -> str:
    """Largest difference, the same as a share of the largest score, rank correlation, and changes of a cut of 10 %."""
    largest = float(np.abs(found - wanted).max())
    ranks = [np.argsort(np.argsort(values)) for values in (found, wanted)]
    n = len(wanted)
    off = 6 * float(((ranks[0] - ranks[1]) ** 2).sum()) / (n * (n * n - 1))  # 1 - Spearman's rank correlation
    cut = n // 10
    moved = int(((ranks[0] < cut) & (ranks[1] >= cut)).sum())
    return f"{largest:11.2e} {largest / float(np.abs(wanted).max()):13.2e} {off:12.1e} {moved:5} of {cut}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[128, 64, 16, 4, 1])
    parser.add_argument("--trainable", nargs="+", default=["heads", "last:1"])
    parser.add_argument("--bases", nargs="+", default=["pca", "random"])
    parser.add_argument("--fit", action="store_true", help="fit with each, too")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp64", "bf16"])
    arguments = parser.parse_args()
    demo = prepare(arguments.work, arguments.pairs, shards=1)
    first, *others = arguments.micro_batches
    print(
        f"{'precision':9} {'trainable':>9} {'basis':>6} {'micro-batch':>11} {'of':>13} {'largest':>11} "
        f"{'of the score':>13} {'1 - rank':>12} moved over a cut"
    )
    for precision, trainable, basis in product(arguments.precisions, arguments.trainable, arguments.bases):
        same = {"precision": precision, "trainable": trainable, "logra_init": basis, **SETTINGS}
        with TemporaryDirectory(dir=arguments.work) as folder:
            whole = fitted(demo, Path(folder, "first"), micro_batch=first, **same)
            wanted = influence(*whole, first)
            for size in others:
                cells = f"{precision:9} {trainable:>9} {basis:>6} {size:11,}"
                print(f"{cells} {'scoring':>13} {row(influence(*whole, size), wanted)}", flush=True)
                if arguments.fit:
                    other = fitted(demo, Path(folder, str(size)), micro_batch=size, **same)
                    print(f"{cells} {'fit and score':>13} {row(influence(*other, size), wanted)}", flush=True)


if __name__ == "__main__":
    main()
