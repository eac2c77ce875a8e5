"""What `--decode draft` gains and what it changes, on JPEGs: pixels of the model's input, seconds, and scores.

For each size the pictures are made that much larger than the model's input and encoded again (quality 90), so that the
scale that libjpeg decodes at is known; `as they are` takes them unchanged. Pixels are compared behind the model's own
resizing, in units of 0 to 255. Scores are those of two whole runs, fit and scoring, one with each way to decode.

    python -m bench.draft --data DIR --work DIR --model FILE --pretrained FILE [--pairs 500] [--times 1.5 2.5 5 9]
"""

from __future__ import annotations

import argparse
import io
import shutil
import statistics
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import polars as pl

from bench.fitting import fit_whole
from bench.method.measures import spearman
from ecif.progress import Silent
from ecif.run import open_run
from ecif.settings import ScoreSettings
from ecif.shards.decode import Pair, decode_image
from ecif.stages import score
from ecif.stages.engine import Engine, load_engine
from ecif.stages.reading import read_pairs
from ecif.storage import Storage

SCORES = ("clip_score", "neg_clip_loss", "influence")


def enlarged(source: Path, to: Path, pairs: int, side: int | None) -> Path:
    """A tar of the first pairs with pictures of that shorter side; None: as they are."""
    with tarfile.open(to, "w", format=tarfile.USTAR_FORMAT) as tar:
        for pair in list(read_pairs(str(source), source.stem, Storage(), "txt", ScoreSettings().limits()))[:pairs]:
            if not isinstance(pair, Pair):
                continue
            data = pair.image
            if side is not None:
                image, buffer = decode_image(data), io.BytesIO()
                factor = side / min(image.size)
                width, height = (max(side, round(edge * factor)) for edge in image.size)
                image.resize((width, height), PIL.Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
                data = buffer.getvalue()
            for extension, content in (("jpg", data), ("txt", pair.caption.encode())):
                header = tarfile.TarInfo(f"{pair.key}.{extension}")
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    return to


def inputs(engine: Engine, pairs: list[Pair], draft: int | None, rounds: int) -> tuple[np.ndarray, list[float]]:
    """Bytes of the model's input, and CPU seconds of decoding and resizing in each round."""
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        found = [engine.towers.take(decode_image(pair.image, engine.limits, draft)).numpy() for pair in pairs]
        seconds.append(time.process_time() - started)
    return np.stack(found).astype(np.int16), seconds


def scores(tar: Path, out: Path, **settings: Any) -> pl.DataFrame:
    """Scores of one whole run, whatever an earlier one left."""
    shutil.rmtree(out, ignore_errors=True)
    run = open_run([str(tar)], ScoreSettings(validation=(str(tar),), out=str(out), canaries=0, **settings))
    engine = load_engine(run.settings)
    fit_whole(run, engine)
    direction = score.load_direction(run, engine)
    return score.score_frame(run, engine, run.inventory.shards[0], direction, Silent())[0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    for name in ("data", "work", "model", "pretrained"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=float, nargs="+", default=[1.5, 2.5, 5, 9], help="picture / model's input")
    arguments = parser.parse_args()
    (arguments.work / "raw").mkdir(parents=True, exist_ok=True)
    named: dict[str, Any] = {"model": str(arguments.model), "pretrained": str(arguments.pretrained), "device": "cpu"}
    engine = load_engine(ScoreSettings(**named))
    side = max(engine.towers.size)
    source = sorted(arguments.data.glob("*.tar"))[0]
    print(f"{arguments.pairs} pictures of {source.parent.name} for a model of {side} pixels")
    head = f"{'mean |d|':>9} {'p99 |d|':>8} {'PSNR dB':>8} {'ms full':>8} {'ms draft':>9} {'faster':>18}"
    rho = "".join(f" {'rho ' + name:>18}" for name in SCORES)
    print(f"{'picture':>12} {'scale':>6} {head}{rho} {'moved over 10 %':>16}")
    for times in (None, *arguments.times):
        size = None if times is None else round(times * side)
        tar = enlarged(source, arguments.work / "raw" / "pictures.tar", arguments.pairs, size)
        pairs = [p for p in read_pairs(str(tar), "p", Storage(), "txt", engine.limits) if isinstance(p, Pair)]
        scale = min(decode_image(pairs[0].image).size) / min(decode_image(pairs[0].image, draft=side).size)
        both = [inputs(engine, pairs, draft, arguments.rounds) for draft in (None, side)]
        difference = np.abs(both[0][0] - both[1][0])
        noise = float(np.mean(np.square(difference.astype(float))))
        faster = [full / draft for full, draft in zip(both[0][1], both[1][1], strict=True)]
        frames = [
            scores(tar, arguments.work / f"out-{times}-{decode}", decode=decode, **named)
            for decode in ("full", "draft")
        ]
        kept = frames[0].join(frames[1], on="key", suffix="_draft").drop_nulls(SCORES)
        rhos = [float(spearman(kept[name].to_numpy(), kept[f"{name}_draft"].to_numpy())) for name in SCORES]
        worst = [set(frame.sort("clip_score", "key")["key"][: len(frame) // 10]) for frame in frames]
        psnr = f"{10 * np.log10(255**2 / noise):8.1f}" if noise else f"{'same':>8}"
        full, draft = (statistics.median(seconds) / len(pairs) * 1e3 for _, seconds in both)
        gain = f"{statistics.median(faster):.2f} ({min(faster):.2f}..{max(faster):.2f})"
        cells = (
            f"{difference.mean():9.2f} {np.quantile(difference, 0.99):8.0f} {psnr} {full:8.2f} {draft:9.2f} {gain:>18}"
        )
        moved = f"{len(worst[0] - worst[1])} of {len(worst[0])}"
        rho = "".join(f" {rho:18.4f}" for rho in rhos)
        name = "as they are" if times is None else f"{times:g} x"
        print(f"{name:>12} {f'1/{scale:.0f}':>6} {cells}{rho} {moved:>16}", flush=True)


if __name__ == "__main__":
    main()
