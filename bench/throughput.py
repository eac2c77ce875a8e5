"""Samples per second of scoring, as ratios to plain embedding of the same shards, in one run.

The floor is what cannot be avoided: read the tar once, decode and preprocess every image with the model's own
transform (in as many threads as scoring uses), and one ordinary forward pass of both towers by open_clip. Scoring
does this, too, and adds the derivative along w and the algebra of K segmentations. Rounds go through all variants in
turn, so that a slow moment of the machine hits them alike; the table shows medians of the ratios within a round.

    python -m bench.throughput --work DIR [--pairs 4000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench.fitting import fit_whole
from bench.prepared import prepare
from ecif.progress import Silent
from ecif.run import Run, open_run
from ecif.settings import Settings
from ecif.stages import score
from ecif.stages.engine import Engine, load_engine
from ecif.stages.reading import read_pairs

VARIANTS = ("heads", "last:1", "all")
TO_REACH = {"heads": 0.7, "last:1": 0.5, "all": 0.15}


def embed_only(run: Run, engine: Engine) -> int:
    """The floor: every pair of the corpus through open_clip's own encode_image and encode_text."""
    count, model = 0, engine.towers.loaded.model
    with torch.no_grad():
        for shard in run.inventory.shards:
            pairs = read_pairs(shard.url, shard.name, run.storage, run.settings.caption, engine.limits)
            for chunk in engine.chunks(pairs, []):
                model.encode_image(engine.towers.to_input(chunk.images), normalize=True)  # type: ignore[operator]
                model.encode_text(chunk.tokens.to(engine.towers.device), normalize=True)  # type: ignore[operator]
                count += len(chunk.pairs)
    return count


def score_all(run: Run, engine: Engine, direction: score.Direction) -> int:
    """What `ecif score` does for every shard, but for the writing of a few hundred kilobytes."""
    return sum(len(score.score_frame(run, engine, shard, direction, Silent())[0]) for shard in run.inventory.shards)


def measure(settings: dict[str, Any], sources: list[str], rounds: int, work: Path) -> list[dict[str, Any]]:
    """Medians over the rounds, one row per variant, the floor first."""
    prepared = {}
    for variant in VARIANTS:
        with TemporaryDirectory(dir=work) as out:
            run = open_run(sources, Settings(**settings, trainable=variant, out=out, fit_pairs=1, sketches=1))
            engine = load_engine(run.settings)
            fit_whole(run, engine)
            prepared[variant] = (run, engine, score.load_direction(run, engine))
    floor_run, floor_engine, _ = prepared["heads"]
    rates: dict[str, list[float]] = {name: [] for name in ("floor", *VARIANTS)}
    for _ in range(rounds + 1):  # the first round warms up
        for name in rates:
            started = time.perf_counter()
            count = embed_only(floor_run, floor_engine) if name == "floor" else score_all(*prepared[name])
            rates[name].append(count / (time.perf_counter() - started))
    rows = []
    for name, found in rates.items():
        ratios = [rate / floor for rate, floor in zip(found[1:], rates["floor"][1:], strict=True)]
        rows.append(
            {
                "variant": "open_clip embedding" if name == "floor" else name,
                "samples_per_second": statistics.median(found[1:]),
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
                "to_reach": TO_REACH.get(name),
            }
        )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True, help="where the demo's corpus and model are kept")
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    demo = prepare(arguments.work, arguments.pairs)
    rows = measure({**demo.settings, "device": arguments.device}, demo.sources, arguments.rounds, arguments.work)
    if arguments.json:
        print(json.dumps(rows))
        return
    print(f"{torch.get_num_threads()} torch threads, {arguments.pairs} pairs, {arguments.rounds} rounds in turn")
    print(f"{'variant':22} {'samples/s':>10} {'ratio to floor':>15} {'min..max':>14} {'to reach':>9}")
    for row in rows:
        reach = "" if row["to_reach"] is None else f"{row['to_reach']:.2f}"
        spread = f"{row['ratio_min']:.2f}..{row['ratio_max']:.2f}"
        print(f"{row['variant']:22} {row['samples_per_second']:10,.0f} {row['ratio']:15.2f} {spread:>14} {reach:>9}")


if __name__ == "__main__":
    main()
