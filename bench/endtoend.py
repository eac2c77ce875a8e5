"""`ecif score` against embedding loops as people write them, over the same tars: read, decode, tokenize, forward.

Two loops are written by hand here, with tarfile, Pillow, open_clip's own transform and tokenizer: one decodes in
threads ahead of the model, one in worker processes of torch's DataLoader. Neither looks for damaged samples, uids or
duplicates. The floor of a round is the faster of the two. Scoring is `score_frame`, all but the writing of the table:
the derivative along a direction, 8 segmentations, and canaries.

Rounds go through all variants in turn, so that a slow moment of the machine hits them alike; the table shows medians
of the ratios within a round, with the smallest and the largest, of pairs per second and of pairs per CPU second (child
processes included): where all cores are busy, on a machine that others use too, the second is the steadier one.

    python -m bench.endtoend --work DIR [--data DIR] [--model demo|twelve] [--pairs 2000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import tarfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from bench.decoded import EXACT, MODEL, VARIANTS, write_model
from bench.prepared import prepare
from bench.sampling import show
from ecif import demo
from ecif.cores import cores
from ecif.inventory import Inventory, Shard
from ecif.layout import Layout
from ecif.progress import Silent
from ecif.run import Run
from ecif.settings import ScoreSettings
from ecif.stages import score
from ecif.stages.column_sources import Sources
from ecif.stages.engine import Engine, load_engine
from ecif.stages.upcoming import Upcoming
from ecif.stages.wanted import Wanted
from ecif.storage import Storage
from ecif.towers.loading import LoadedModel, load


def samples(tars: list[Path]) -> Iterator[tuple[bytes, str]]:
    """Image and caption of every sample, in the order of the tars, as most loaders find them."""
    for path in tars:
        found: dict[str, bytes] = {}
        key = ""
        with tarfile.open(path, "r|") as tar:
            for member in tar:
                name, _, extension = member.name.partition(".")
                if name != key and found:
                    yield found["image"], found["txt"].decode()
                    found = {}
                key = name
                if (file := tar.extractfile(member)) is not None:
                    found["image" if extension in ("jpg", "png") else extension] = file.read()
        yield found["image"], found["txt"].decode()


def decoded(loaded: LoadedModel, sample: tuple[bytes, str]) -> tuple[Tensor, str]:
    """The input of the image tower, and the caption."""
    return loaded.transform(PIL.Image.open(io.BytesIO(sample[0])).convert("RGB")), sample[1]


class Decoded(IterableDataset[tuple[Tensor, str]]):
    """Samples for a DataLoader; each worker takes every n-th tar, or every n-th sample of a single one."""

    def __init__(self, tars: list[Path], loaded: LoadedModel) -> None:
        self.tars, self.loaded = tars, loaded

    def __iter__(self) -> Iterator[tuple[Tensor, str]]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        if len(self.tars) % step == 0:
            yield from map(partial(decoded, self.loaded), samples(self.tars[first::step]))
        else:
            yield from map(partial(decoded, self.loaded), islice(samples(self.tars), first, None, step))


def in_threads(tars: list[Path], loaded: LoadedModel, micro: int) -> Iterator[list[tuple[Tensor, str]]]:
    """Micro-batches, decoded in threads ahead of the model."""
    source = samples(tars)
    with ThreadPoolExecutor(cores()) as pool:
        waiting = deque(pool.submit(decoded, loaded, sample) for sample in islice(source, 3 * micro))
        while waiting:
            batch = [waiting.popleft().result() for _ in range(min(micro, len(waiting)))]
            waiting.extend(pool.submit(decoded, loaded, sample) for sample in islice(source, micro))
            yield batch


def in_processes(tars: list[Path], loaded: LoadedModel, micro: int) -> Iterator[list[tuple[Tensor, str]]]:
    """Micro-batches, decoded in processes."""
    yield from DataLoader(Decoded(tars, loaded), micro, num_workers=cores(), collate_fn=list)


def embed(loaded: LoadedModel, batches: Iterator[list[tuple[Tensor, str]]]) -> int:
    """The loop by hand; how many pairs there were."""
    model: Any = loaded.model
    kept, count = [], 0
    with torch.no_grad():
        for batch in batches:
            u_BD = model.encode_image(torch.stack([image for image, _ in batch]), normalize=True)
            v_BD = model.encode_text(loaded.tokenize([caption for _, caption in batch]), normalize=True)
            kept.append((u_BD, v_BD))
            count += len(batch)
    return count


class Scoring:
    """`ecif score` of some shards along a random direction, which takes the time of any other."""

    def __init__(self, tars: list[Path], model: str, weights: str, variant: str, micro: int, **options: Any) -> None:
        trainable, _, derivative = variant.partition(", ")
        chosen = {"trainable": trainable, "micro_batch": micro, "device": "cpu", **options}
        if derivative:
            chosen["derivative"] = derivative
        self.settings = ScoreSettings(model=model, pretrained=weights, **chosen)
        self.engine: Engine = load_engine(self.settings)
        towers, generator = self.engine.towers, torch.Generator().manual_seed(0)
        along = {name: 1e-3 * torch.randn(p.shape, generator=generator) for name, p in towers.parameters.items()}
        self.direction = score.Direction(Sources(Wanted.of(self.settings), {"influence": along}), frozenset())
        storage = Storage()
        infos = [(path, storage.info(str(path))) for path in tars]
        shards = tuple(Shard(p.stem, str(p), i.size, i.etag, None, None, None) for p, i in infos)
        self.run = Run(
            self.settings, Layout(self.settings.out or "unused"), storage, Inventory(shards, ()), (), "bench", "bench"
        )

    def __call__(self) -> int:
        """Score all shards; how many rows."""
        shards, run, engine = self.run.inventory.shards, self.run, self.engine
        with Upcoming(run, engine, shards) as upcoming:
            frames = (score.score_frame(run, engine, one, self.direction, Silent(), upcoming)[0] for one in shards)
            return sum(map(len, frames))


def cut(tar: Path, pairs: int, to: Path) -> Path:
    """The first samples of a tar as a tar."""
    with tarfile.open(tar) as source, tarfile.open(to, "w", format=tarfile.USTAR_FORMAT) as target:
        keys: set[str] = set()
        for member in source:
            keys.add(member.name.partition(".")[0])
            if len(keys) > pairs:
                break
            target.addfile(member, source.extractfile(member))
    return to


def corpus(work: Path, data: Path | None, pairs: int, shards: int = 2) -> list[Path]:
    """Tars of real pictures below `data`, or of the demo's scenes; `pairs` in all."""
    if data is not None:
        found = sorted(data.glob("*.tar"))[:shards]
        if not found:
            raise SystemExit(f"{data} holds no tar; name the directory of one set")
    else:
        found = [Path(source) for source in prepare(work, pairs, shards=shards).sources]
    folder = work / "end-to-end"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return [cut(tar, pairs // shards, folder / tar.name) for tar in found]


def measure(variants: dict[str, Callable[[], int]], rounds: int) -> list[dict[str, Any]]:
    """One row per variant; those that begin with `by hand` make the floor. The first round warms up."""
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, work in variants.items():
            before = time.perf_counter(), _cpu()
            count = work()
            rates[name].append((count / (time.perf_counter() - before[0]), count / max(_cpu() - before[1], 1e-9)))
    rows = []
    for name, found in rates.items():
        row: dict[str, Any] = {"variant": name}
        for place, per in enumerate(("second", "cpu_second")):
            hand = [[one[place] for one in rate[1:]] for by, rate in rates.items() if by.startswith("by hand")]
            own = [one[place] for one in found[1:]]
            ratios = [rate / most for rate, most in zip(own, map(max, zip(*hand, strict=True)), strict=True)]
            row[f"pairs_per_{per}"] = statistics.median(own)
            row[f"ratio_per_{per}"] = [statistics.median(ratios), min(ratios), max(ratios)]
        rows.append(row)
    return rows


def _cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    return sum(use.ru_utime + use.ru_stime for use in map(getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True, help="where tars and models are put")
    parser.add_argument("--data", type=Path, help="a directory of tars of real pictures")
    parser.add_argument("--model", choices=("demo", "twelve"), default="twelve", help="the demo's, or 12 layers")
    parser.add_argument("--variants", nargs="+", default=list(EXACT), help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--micro-batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sample", choices=VARIANTS, help="show where the threads of one variant are instead")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    tars = corpus(arguments.work, arguments.data, arguments.pairs)
    config = (
        MODEL
        if arguments.model == "twelve"
        else json.loads((Path(demo.__file__).parent / "model.json").read_text("utf-8"))
    )
    model, weights = write_model(arguments.work, config)
    loaded, micro = load(model, weights), arguments.micro_batch
    if arguments.sample:
        scoring = Scoring(tars, model, weights, arguments.sample, micro)
        scoring()  # warms up
        show(scoring)
        return
    variants: dict[str, Callable[[], int]] = {
        "by hand, threads": lambda: embed(loaded, in_threads(tars, loaded, micro)),
        "by hand, processes": lambda: embed(loaded, in_processes(tars, loaded, micro)),
    }
    variants |= {name: Scoring(tars, model, weights, name, micro) for name in arguments.variants}
    rows = measure(variants, arguments.rounds)
    if arguments.json:
        print(json.dumps(rows))
        return
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} torch threads, {cores()} cores, model {arguments.model},"
        f" {arguments.pairs} pairs in micro-batches of {micro}, {arguments.rounds} rounds in turn"
    )
    print(f"{'variant':18} {'pairs/s':>9} {'ratio':>22} {'pairs/CPU s':>12} {'ratio':>22}")
    for row in rows:
        cells = []
        for per, width in (("second", 9), ("cpu_second", 12)):
            middle, least, most = row[f"ratio_per_{per}"]
            cells.append(f"{row[f'pairs_per_{per}']:{width},.1f} {middle:7.3f} ({least:.3f}..{most:.3f})")
        print(f"{row['variant']:18} {' '.join(cells)}")


if __name__ == "__main__":
    main()
