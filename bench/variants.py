"""AUROC of influence on real shards, one line per variant of the method, next to the similarity baselines.

    python -m bench.variants --data DIR --work DIR [VARIANT ...]

A variant is written `name=value,name=value` with the names of the settings. Each fits and scores the four shards of
cifar10n with the model beside them; the truth selects the validation pairs and judges, and nothing in between sees it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from bench.fitting import fit_whole
from bench.real import cifar10n
from ecif import detectors
from ecif.demo.evaluation import auroc
from ecif.fields import build
from ecif.run import open_run
from ecif.settings import ScoreSettings
from ecif.stages import score
from ecif.stages.engine import load_engine

DEFAULT = (
    "damping=0.1x",
    "damping=1x",
    "damping=10x",
    "damping=100x",
    "curvature=fisher,damping=1x",
    "curvature=fisher,damping=10x",
    "damping=10x,complement=keep",
    "damping=10x,negative_role=first-order",
    "damping=10x,batch_size=64",
    "damping=10x,equal_captions=compete",
    "damping=10x,logra_init=random,sketches=16",
    "trainable=last:1,sketches=4",
    "trainable=all,sketches=4",
)
DETECTORS = ("influence", "positive_influence", "negative_influence", "harm", "clip_score", "neg_clip_loss")


def measure(variant: str, sources: list[str], base: dict[str, str], truth: pl.DataFrame, work: Path) -> str:
    """One line of the table."""
    changes = dict(part.split("=", 1) for part in variant.split(","))
    # The gradients of single pairs take their time where they have no closed form.
    heads = changes.get("trainable", "heads") == "heads"
    more = {"columns": ("harm",)} if heads else {}
    with TemporaryDirectory(dir=work) as out:
        settings = build(ScoreSettings, {**base, "validation": (base["validation"],), "out": out} | more | changes)
        run = open_run(sources, settings)
        engine = load_engine(settings)
        started = time.perf_counter()
        fit_whole(run, engine)
        fitted = time.perf_counter()
        direction = score.load_direction(run, engine)
        for shard in run.inventory.shards:
            score.score_shard(run, engine, shard, direction)
        scored = time.perf_counter()
        meta = run.storage.read_json(run.layout.fit_meta(run.fit_key))
        urls = [run.layout.scores(run.score_key, shard.name) for shard in run.inventory.shards]
        frame = pl.concat([pl.read_parquet(url) for url in urls])
    joined = frame.join(truth.select("uid", "misaligned"), on="uid").filter(pl.col("status") == "ok")
    wrong = joined["misaligned"].to_numpy()
    cells = [_auroc(joined, name, wrong) for name in DETECTORS]
    numbers = "".join(f"{cell:19.3f}" for cell in cells)
    dimension = f"{meta['effective_dimension']:5.0f} of {meta['projected_size']:5}"
    return f"{variant:40}{numbers}  {dimension}  {fitted - started:5.0f} {scored - fitted:6.0f}"


def _auroc(scores: pl.DataFrame, name: str, wrong: np.ndarray) -> float:
    if name not in scores.columns:
        return float("nan")
    values = scores[name].cast(pl.Float64).to_numpy()
    return auroc(wrong, values if detectors.facts(name).higher_is_worse else -values) or float("nan")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("variants", nargs="*", default=list(DEFAULT))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    truth = pl.read_parquet(arguments.data / "truth" / "cifar10n_truth.parquet")
    corpus, validation, options = cifar10n(arguments.data, arguments.work, truth)
    base = {name.removeprefix("--"): value for name, value in options.items()} | {"validation": str(validation)}
    header = "".join(f"{name:>19}" for name in DETECTORS)
    print(f"{'AUROC of':40}{header}  effective dim.    fit s score s")
    for variant in arguments.variants:
        print(measure(variant, [str(path) for path in corpus], base, truth, arguments.work), flush=True)


if __name__ == "__main__":
    main()
