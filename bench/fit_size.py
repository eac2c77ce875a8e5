"""How many pairs, sketches and validation batches a fit needs: what fewer do to the direction and to the ranking.

    python -m bench.fit_size --work DIR [--trainable heads] [--sizes 100 250 ...] [--sketches 64 256] [--cuts 1 2 4 ...]

For each size and seed, that many pairs of the demo's corpus are drawn, cut into shards of at most 1,000 pairs (so that
batches are those of the defaults, 250 pairs; a sample of 100 is one batch of 100), and fitted as `ecif fit` does it.
The seed also decides batches, sketches and the basis of the projection, and into which batches the validation pairs are
cut (`--cuts`: so many segmentations are averaged). What each fit says is compared with one fit on all pairs, by another
seed, with 4 times (`--finer`) as many sketches a batch as the default and 64 segmentations of the validation pairs:

    gradient    |g - g_all| / |g_all|, of the validation loss: what the cuts alone do
    error       |w - w_all| / |w_all|, of the direction
    Spearman    of the influence of the same pairs, scored with the defaults along both directions
    worst 10 %  share of the pairs with the lowest influence along one that are so along the other, too
    AUROC       of influence, for the wrong pairs of the corpus
    CPU s       of the fit: basis, moments, factor, validation gradient, solution

The rows of all pairs are the noise of everything but the sample. With --same-basis all fits project onto the rows of
the reference: what remains is the error of the factor. A large sample shares pairs with the reference, so the error of
drawing n of N goes with sqrt(1/n - 1/N). A fit stands for the pairs it was given: moments, and damping with them, are
n / N of those of the corpus, and the direction is N / n times as long, which is taken back before it is compared.
Corpus and model are those of `ecif demo`, made in --work/demo/made unless they are there.
"""

from __future__ import annotations

import argparse
import io
import itertools
import shutil
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from bench.calibration import material
from bench.fitting import fit_whole
from bench.method.measures import spearman, table
from ecif.demo.evaluation import auroc
from ecif.progress import Silent
from ecif.run import Run, open_run
from ecif.settings import Settings
from ecif.stages import fitted, score
from ecif.stages.column_sources import Sources
from ecif.stages.engine import Engine, load_engine
from ecif.stages.wanted import Wanted
from ecif.towers import Parameters

SHARD = 1_000
CUTS = 64  # segmentations of the validation pairs of the reference
WORST = 0.1

Array = np.ndarray
Sample = list[tuple[tarfile.TarInfo, bytes]]  # the members of one pair


@dataclass(frozen=True, slots=True)
class Compared:
    """A fit held against the one on all pairs: the columns of the table."""

    gradient: float
    error: float
    spearman: float
    overlap: float
    auroc: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a fit says of the whole corpus, and the CPU seconds that it took."""

    direction: Parameters
    gradient: Parameters
    seconds: float


def read(tars: Sequence[Path]) -> list[Sample]:
    """All pairs of some tars, with every member, as long as they fit into memory."""
    found: dict[tuple[int, str], Sample] = {}
    for number, path in enumerate(tars):
        with tarfile.open(path) as tar:
            for member in tar:
                if (file := tar.extractfile(member)) is not None:
                    key = number, member.name.partition(".")[0]
                    found.setdefault(key, []).append((member, file.read()))
    return list(found.values())


def write(pairs: Sequence[Sample], folder: Path) -> list[str]:
    """The pairs as shards of at most `SHARD`; their paths."""
    folder.mkdir(parents=True)
    paths = []
    for number in range(-(-len(pairs) // SHARD)):
        paths.append(str(folder / f"{number:05d}.tar"))
        with tarfile.open(paths[-1], "w", format=tarfile.USTAR_FORMAT) as tar:
            for place, pair in enumerate(pairs[number * SHARD : (number + 1) * SHARD]):
                for member, data in pair:
                    info = tarfile.TarInfo(f"{place:06d}.{member.name.partition('.')[2]}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return paths


class Study:
    """The demo's corpus, fitted and scored for one choice of trainable parameters."""

    def __init__(self, work: Path, trainable: str, scored: int, *, same_basis: bool) -> None:
        tars, validation, options, self.truth = material("demo", work, work / "demo", work)
        self.scratch = work / "fit-size"
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.common: dict[str, Any] = {name.removeprefix("--"): value for name, value in options.items()}
        self.common |= {"validation": (str(validation),), "device": "cpu", "canaries": 0.0, "trainable": trainable}
        self.pairs = read(tars)
        self.same_basis, self.basis = same_basis, b""  # the projection of the first fit, if all are to have it
        self.run: Run = open_run([str(path) for path in tars[:scored]], self._settings("scored", 0))
        self.engine: Engine = load_engine(self.run.settings)

    def _settings(self, name: str, seed: int, **changes: Any) -> Settings:
        return Settings(**self.common, out=str(self.scratch / name), seed=seed, **changes)

    def fit(self, size: int, seed: int, sketches: int, cuts: int) -> Fitted:
        """Fit on `size` pairs drawn by `seed`. Leaves no files."""
        drawn = np.random.default_rng(seed).permutation(len(self.pairs))[:size]
        tars = write([self.pairs[place] for place in drawn], self.scratch / "raw")
        settings = self._settings("out", seed, sketches=sketches, validation_segmentations=cuts)
        run, engine = open_run(tars, settings), self.engine
        started = time.process_time()
        if self.basis:
            run.storage.publish_first(run.layout.projection(run.fit_key), self.basis)
        fit_whole(run, engine)
        seconds = time.process_time() - started
        if self.same_basis:
            self.basis = run.storage.read_bytes(run.layout.projection(run.fit_key))
        found = fitted.load_by_parameter(run.layout.direction(run.fit_key), run, engine)
        gradient = fitted.load_by_parameter(run.layout.gradient(run.fit_key), run, engine)
        for name in ("raw", "out"):
            shutil.rmtree(self.scratch / name)
        direction = {name: part * (size / len(self.pairs)) for name, part in found.items()}
        return Fitted(direction, gradient, seconds)

    def influence(self, direction: Parameters) -> tuple[Array, Array]:
        """Of the pairs of the scored shards, (n,), lowest for the most harmful; and which of them are wrong."""
        along = score.Direction(Sources(Wanted.of(self.run.settings), {"influence": direction}), frozenset())
        shards = self.run.inventory.shards
        frames = (score.score_frame(self.run, self.engine, shard, along, Silent())[0] for shard in shards)
        good = pl.concat(frames).filter(pl.col("status") == "ok").join(self.truth, on="uid", maintain_order="left")
        known = good.filter(pl.col("misaligned").is_not_null())
        return known["influence"].to_numpy().astype(np.float64), known["misaligned"].to_numpy()


def compare(study: Study, one: Fitted, whole: Fitted, against: Array) -> Compared:
    """A fit against the reference and the influence along its direction."""
    influence, wrong = study.influence(one.direction)
    count = round(WORST * len(against))
    both = np.intersect1d(np.argsort(influence)[:count], np.argsort(against)[:count])
    return Compared(
        _error(one.gradient, whole.gradient),
        _error(one.direction, whole.direction),
        float(spearman(influence, against)),
        len(both) / count,
        auroc(wrong, -influence) or 0.0,
        one.seconds,
    )


def _error(found: Parameters, expected: Parameters) -> float:
    one, other = (torch.cat([part.double().reshape(-1) for part in parts.values()]) for parts in (found, expected))
    return float((one - other).norm() / other.norm())


def _range(values: Sequence[float], digits: int) -> str:
    """Median, smallest and largest; of a single one, itself."""
    middle, least, most = (f"{value:.{digits}f}" for value in (np.median(values), min(values), max(values)))
    return f"{middle} ({least} to {most})" if len(values) > 1 else middle


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--trainable", nargs="+", default=["heads"])
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 250, 500, 1_000, 3_000], help="and all pairs")
    parser.add_argument("--sketches", type=int, nargs="+", help="a batch [default: that of the fit]")
    parser.add_argument("--cuts", type=int, nargs="+", help="of the validation pairs [default: those of the fit]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scored", type=int, default=3, help="shards of the corpus that are scored")
    parser.add_argument("--finer", type=int, default=4, help="sketches of the reference, in multiples of the default")
    parser.add_argument("--same-basis", action="store_true", help="project all fits as the reference")
    arguments = parser.parse_args()
    rows = []
    for trainable in arguments.trainable:
        study = Study(arguments.work, trainable, arguments.scored, same_basis=arguments.same_basis)
        default = study.run.settings.sketches_per_batch
        reference = study.fit(len(study.pairs), 0, arguments.finer * default, CUTS)
        against, wrong = study.influence(reference.direction)
        print(f"{trainable}: reference: AUROC {auroc(wrong, -against) or 0.0:.3f}", flush=True)
        every_sketches = arguments.sketches or [default]
        every_cuts = arguments.cuts or [study.run.settings.validation_segmentations]
        sizes = (*arguments.sizes, len(study.pairs))
        for sketches, cuts, size in itertools.product(every_sketches, every_cuts, sizes):
            fits = [study.fit(size, seed, sketches, cuts) for seed in range(1, arguments.seeds + 1)]
            found = [compare(study, one, reference, against) for one in fits]
            cells = [f"`{trainable}`{', same basis' * arguments.same_basis}", f"{sketches}", f"{cuts}", f"{size:,}"]
            cells += [_range([one.gradient for one in found], 3), _range([one.error for one in found], 3)]
            cells += [_range([one.spearman for one in found], 4), _range([one.overlap for one in found], 3)]
            cells.append(_range([one.auroc for one in found], 3))
            rows.append([*cells, f"{np.median([one.seconds for one in found]):.1f}"])
            print("; ".join(rows[-1]), flush=True)
        shutil.rmtree(study.scratch)
    head = ["trainable", "sketches", "cuts", "pairs", "error of the gradient", "error of the direction", "Spearman"]
    head += ["worst 10 %", "AUROC", "CPU s"]
    table(f"{len(against):,} pairs scored, {arguments.seeds} seeds: median (smallest to largest).", head, rows)


if __name__ == "__main__":
    main()
