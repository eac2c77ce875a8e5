"""What canaries cost: the same shards scored without any and with some, in turn.

    python -m bench.canaries [--share 0.05] [--pairs 2000] [--rounds 5] [--trainable heads] [--data DIR]

The model has random weights and six layers of width 256 at 64 pixels: speed needs no trained one. The pairs are made
up, unless `--data` names a directory of tars, the last of which serves as the validation set. A round scores every
shard without and with canaries, one after the other, and the two change places from round to round; each time gives a
ratio, since slow moments of the machine hit both alike. On a CPU the seconds are those of this process, all threads
together, which other processes share least. Canaries are to cost no more than their share and 2 %.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

from bench.fitting import fit_whole
from ecif.progress import Silent
from ecif.run import Run, open_run
from ecif.settings import Settings
from ecif.stages import score
from ecif.stages.engine import load_engine

MODEL: dict[str, Any] = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 64, "layers": 6, "width": 256, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 6},
}
# Beyond the share itself.
ALLOWANCE = 0.02
WORDS = ("red", "green", "small", "old", "wooden", "bright", "quiet", "dog", "cat", "house", "river", "tree", "boat")


def make_tar(path: Path, pairs: int, seed: int) -> None:
    """Pairs of a blurred random picture (JPEG) and eight random words."""
    random = np.random.default_rng(seed)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for n in range(pairs):
            picture = Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((96, 96))
            image = io.BytesIO()
            picture.save(image, "JPEG")
            caption = " ".join(random.choice(WORDS, 8))
            for name, data in ((f"{n:06d}.jpg", image.getvalue()), (f"{n:06d}.txt", caption.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_model(folder: Path) -> tuple[str, str]:
    """The model's config and random weights."""
    config, weights = folder / "model.json", folder / "weights.safetensors"
    config.write_text(json.dumps(MODEL), "utf-8")
    torch.manual_seed(0)
    network = open_clip.CLIP(**MODEL)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, weights)
    return str(config), str(weights)


def fitted(sources: list[str], settings: Settings) -> tuple[Run, Any, score.Direction]:
    """A fit on as little as possible: what the direction is does not matter."""
    run = open_run(sources, settings)
    engine = load_engine(run.settings)
    fit_whole(run, engine)
    return run, engine, score.load_direction(run, engine)


def measure(run: Run, engine: Any, direction: score.Direction, share: float, rounds: int) -> list[tuple[float, float]]:
    """Seconds without and with canaries, of each shard in each round; a first round warms up."""
    runs = [replace(run, settings=run.settings.model_copy(update={"canaries": one})) for one in (0.0, share)]
    clock = time.process_time if engine.towers.device.type == "cpu" else time.perf_counter
    found = []
    for number in range(rounds + 1):
        for shard in run.inventory.shards:
            seconds = [0.0, 0.0]
            for which in (0, 1) if number % 2 else (1, 0):
                started = clock()
                score.score_frame(runs[which], engine, shard, direction, Silent())
                seconds[which] = clock() - started
            found.append((seconds[0], seconds[1]))
    return found[len(run.inventory.shards) :]


def main() -> None:
    """Print seconds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--pairs", type=int, default=2000, help="of all shards")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trainable", default="heads")
    parser.add_argument("--columns", nargs="*", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data", type=Path, help="directory of tars to score instead")
    given = parser.parse_args()
    with TemporaryDirectory() as work:
        folder = Path(work)
        if given.data:
            *tars, validation = sorted(given.data.glob("*.tar"))
        else:
            (folder / "raw").mkdir()
            tars = [folder / "raw" / f"{n:05d}.tar" for n in range(given.shards)]
            for n, tar in enumerate(tars):
                make_tar(tar, given.pairs // given.shards, n)
            validation = folder / "validation.tar"
            make_tar(validation, 256, 999)
        model, weights = write_model(folder)
        settings = Settings(
            model=model,
            pretrained=weights,
            validation=(str(validation),),
            out=str(folder / "out"),
            trainable=given.trainable,
            columns=tuple(given.columns),
            device=given.device,
            fit_pairs=1,
            sketches=1,
        )
        run, engine, direction = fitted([str(tar) for tar in tars], settings)
        found = measure(run, engine, direction, given.share, given.rounds)
    ratios = [after / before for before, after in found]
    medians = [statistics.median(part) for part in zip(*found, strict=True)]
    print(f"{engine.towers.device}, {torch.get_num_threads()} torch threads, --trainable {given.trainable}")
    print(f"{'share':>6} {'seconds':>8} {'min..max':>14}")
    for share, median, part in zip((0.0, given.share), medians, zip(*found, strict=True), strict=True):
        print(f"{share:6.2f} {median:8.2f} {f'{min(part):.2f}..{max(part):.2f}':>14}")
    print(f"ratio {statistics.median(ratios):.3f} (median of {len(ratios)}, {min(ratios):.3f}..{max(ratios):.3f}), "
          f"at most {1 + given.share + ALLOWANCE:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
