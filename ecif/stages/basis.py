"""The projection of a fit, written down before the first shard is mapped.

All machines of a run project with the same numbers: with random rows this could be left to the seed, but the
eigenvectors of `pca` and `ekfac` come from data, and a file serves both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ecif import curvature, logra
from ecif.errors import BadTarError, InputError
from ecif.inventory import Shard
from ecif.logra import Projection
from ecif.progress import Progress, Silent
from ecif.run import Run
from ecif.segmentation import segment
from ecif.settings import MethodSettings
from ecif.stages.batches import Batch, embed, load_batch, pull_back
from ecif.stages.engine import Engine
from ecif.stages.extension import earlier
from ecif.stages.memory import batch_bounded
from ecif.stages.reading import read_pairs
from ecif.stages.spool import spool


def freeze_projection(run: Run, engine: Engine, shards: list[Shard], progress: Progress = Silent()) -> Projection:
    """Build and write the projection unless it exists, and read it back.

    Args:
        shards: of the fit sample, in its order; `pca` and `ekfac` look at the first `basis_pairs` pairs of them.
    """
    url = run.layout.projection(run.fit_key)
    if not run.storage.exists(url):
        before = earlier(run)
        with batch_bounded(engine.towers.device, run.settings):
            built = before.projection(run.storage) if before else _build(run, engine, shards, progress).tensors()
        # If another run was first, with eigenvectors that differ in the last digits, its file stands.
        run.storage.publish_first(url, save_tensors({n: part.cpu().contiguous() for n, part in built.items()}))
    return load_projection(run, engine)


def load_projection(run: Run, engine: Engine, dtype: torch.dtype | None = None) -> Projection:
    """The projection of this fit.

    Raises:
        InputError: it was made for other parameters.
    """
    url = run.layout.projection(run.fit_key)
    towers = engine.towers
    try:
        return logra.load_projection(
            load_tensors(run.storage.read_bytes(url)), shapes(engine), towers.device, dtype or towers.dtype
        )
    except ValueError as error:
        raise InputError(f"{error}; use a new --out", url=url) from error


def shapes(engine: Engine) -> dict[str, tuple[int, ...]]:
    """Of the trainable parameters, in the model's order."""
    return {name: tuple(p.shape) for name, p in engine.towers.parameters.items()}


def _build(run: Run, engine: Engine, shards: list[Shard], progress: Progress) -> Projection:
    settings = run.settings
    rank, budget, seed, device = settings.logra_rank, settings.projected_size, settings.seed, engine.towers.device
    # Written in the arithmetic that it is used in, but orthonormal to double precision where that is asked for.
    dtype = torch.float64 if settings.precision == "fp64" else torch.float32
    whole = settings.curvature == "ekfac"
    if not whole and settings.logra_init == "random":
        return logra.build(shapes(engine), rank, budget, seed, device, dtype)
    sides: dict[str, Tensor] = {}
    pairs = 0
    progress.stage("fit: basis", settings.basis_pairs, "pairs")
    for batch, noise in _first_batches(run, engine, shards):
        u_BD, v_BD = embed(engine, batch)
        sketches = curvature.ggn_sketches(
            u_BD, v_BD, engine.towers.scale, settings.sketches_per_batch, noise, batch.competing(settings)
        )
        for name, side in curvature.sides(pull_back(engine, batch, sketches)).items():
            sides[name] = sides[name] + side if name in sides else side
        pairs += batch.size
        progress.advance(batch.size)
        if pairs >= settings.basis_pairs:
            break
    progress.end()
    # Where no pair could be used the rows are random, and the reduce says why there is nothing to fit.
    return logra.build_pca(shapes(engine), sides, rank, budget, seed, device, dtype, whole=whole)


def _first_batches(run: Run, engine: Engine, shards: list[Shard]) -> Iterator[tuple[Batch, torch.Generator]]:
    for shard in shards:
        # A shard that is no tar has no part in the basis; mapping it says why.
        with suppress(BadTarError):
            yield from batches(run, engine, shard)


def batches(run: Run, engine: Engine, shard: Shard) -> Iterator[tuple[Batch, torch.Generator]]:
    """The batches of a shard's first segmentation that are large enough, each with its source of noise.

    Raises:
        BadTarError: the shard is no tar, or is cut short.
    """
    settings = run.settings
    with spool() as samples:
        samples.add(read_pairs(shard.url, shard.name, run.storage, settings.caption, engine.limits, shard.info))
        for number, rows in enumerate(segment(samples.keys, settings.batch_size, settings.seed, 0).batches):
            if len(rows) >= settings.smallest_batch:
                batch = load_batch(engine, samples, rows.tolist())
                if batch.size >= 2:
                    yield batch, noise(settings, shard.name, number)


def noise(settings: MethodSettings, shard: str, batch: int) -> torch.Generator:
    """The source of a batch's sketches: the same on any machine, in any order of work."""
    seed = hashlib.sha256(f"{settings.seed}:{shard}:{batch}".encode()).digest()[:7]
    return torch.Generator().manual_seed(int.from_bytes(seed))
