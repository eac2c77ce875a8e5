"""Fit: from a sample of the corpus to the direction w = H^-1 grad L_val, as a map and a reduce over files.

    freeze_sample   which shards, decided once and written down before the first is read
    map_shard       one shard -> partial/<shard>.safetensors, the Gram matrix of its projected gradients
    reduce          partials, added in the order of the shards' names -> factor, validation gradient, direction

No array travels but through files, so shards may be mapped anywhere and in any order.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ecif import curvature, logra
from ecif.curvature import Factor
from ecif.errors import BadTarError, InputError, UsageError
from ecif.inventory import Shard
from ecif.logra import Head, Projection
from ecif.progress import Progress, Silent
from ecif.run import Run, versions
from ecif.segmentation import segment
from ecif.settings import MethodSettings
from ecif.stages.batches import Batch, embed, load_batch, pull_back_projected
from ecif.stages.engine import Engine
from ecif.stages.reading import read_pairs
from ecif.stages.spool import spool
from ecif.stages.validation import Validation, load_validation

SHARE = 100  # the fit sample is at least 1 / SHARE of the corpus


@dataclass(frozen=True, slots=True)
class FitSample:
    """Which shards the curvature is fitted on, and how many pairs the corpus had when that was decided (N)."""

    shards: tuple[str, ...]
    corpus_pairs: int


def is_done(run: Run) -> bool:
    """Whether the direction exists; its meta.json is written last."""
    return run.storage.exists(run.layout.fit_meta(run.fit_key))


def freeze_sample(run: Run) -> FitSample:
    """Choose the shards of the fit, or read what was chosen before.

    Shards come in the order of sha256(seed, name) until they hold max(fit_pairs, 1 % of the corpus) pairs.

    Raises:
        UsageError: no shard of the corpus could be counted.
    """
    url = run.layout.fit_sample(run.fit_key)
    if not run.storage.exists(url):
        sizes = {shard.name: shard.samples for shard in run.inventory.shards if shard.samples}
        if not sizes:
            raise UsageError("the corpus holds no sample: there is nothing to fit the curvature on")
        total = sum(sizes.values())
        wanted = max(run.settings.fit_pairs, -(-total // SHARE))
        seed = run.settings.seed
        order = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
        chosen: list[str] = []
        for name in order:
            if sum(sizes[taken] for taken in chosen) >= wanted:
                break
            chosen.append(name)
        run.storage.publish_json(url, {"shards": sorted(chosen), "corpus_pairs": total})
    frozen = run.storage.read_json(url)
    return FitSample(tuple(frozen["shards"]), frozen["corpus_pairs"])


def todo(run: Run, sample: FitSample) -> list[Shard]:
    """Shards of the sample whose partial does not exist yet."""
    by_name = run.inventory.by_name()
    if gone := [name for name in sample.shards if name not in by_name]:
        raise UsageError(f"the fit was started with shards that are no longer in the inventory: {', '.join(gone[:3])}")
    root = run.layout.partials(run.fit_key)
    done = {info.url for info in run.storage.list(root, ".safetensors")}
    return [
        by_name[name] for name in sample.shards if run.storage.check(run.layout.partial(run.fit_key, name)) not in done
    ]


def projection(settings: MethodSettings, engine: Engine, dtype: torch.dtype | None = None) -> Projection:
    """The LoGra projection of this fit: a function of the settings and the shapes of the parameters."""
    shapes = {name: tuple(p.shape) for name, p in engine.towers.parameters.items()}
    return logra.build(
        shapes,
        settings.logra_rank,
        settings.projected_size,
        settings.seed,
        engine.towers.device,
        dtype or engine.towers.dtype,
    )


def map_shard(run: Run, engine: Engine, shard: Shard) -> None:
    """Write the partial file of one shard, unless it exists.

    The file holds `gram`, (K, K) float64, and `pairs`: how many pairs entered it. A shard that is no tar
    gives an empty partial with the reason, so that one bad shard does not keep the others from being fitted.
    """
    url = run.layout.partial(run.fit_key, shard.name)
    if run.storage.exists(url):
        return
    project = projection(run.settings, engine)
    gram = torch.zeros(project.size, project.size, dtype=curvature.GRAM_DTYPE, device=engine.towers.device)
    pairs, problem = 0, ""
    with spool() as samples:
        try:
            samples.add(read_pairs(shard.url, shard.name, run.storage, run.settings.caption, engine.limits))
            for number, rows in enumerate(segment(samples.keys, run.settings.batch_size, run.settings.seed, 0).batches):
                if len(rows) < run.settings.smallest_batch:
                    continue
                batch = load_batch(engine, samples, rows.tolist())
                if batch.size < 2:
                    continue
                noise = torch.Generator().manual_seed(_noise_seed(run.settings.seed, shard.name, number))
                gram += curvature.gram(_projected(run.settings, engine, batch, project, noise))
                pairs += batch.size
        except BadTarError as error:
            gram.zero_()
            pairs, problem = 0, str(error)
    facts = json.dumps({"pairs": pairs, "problem": problem, "shard": shard.name})
    run.storage.publish(url, save_tensors({"gram": gram.cpu()}, {"ecif": facts}))


def _projected(
    settings: MethodSettings, engine: Engine, batch: Batch, project: Projection, noise: torch.Generator
) -> Tensor:
    """Rows whose outer products sum to the projected curvature of the batch (in expectation, for ggn)."""
    if settings.curvature == "fisher":
        return torch.cat(positive_gradients(engine, batch, project), 1)
    u_BD, v_BD = embed(engine, batch)
    sketches = curvature.ggn_sketches(u_BD, v_BD, engine.towers.scale, settings.sketches, noise)
    return pull_back_projected(engine, batch, sketches, project) / settings.sketches**0.5


def positive_gradients(engine: Engine, batch: Batch, project: Projection) -> tuple[Tensor, Tensor]:
    """Projected per-sample gradients of Pos for the two heads, (B, K_image) and (B, K_text), in closed form.

    Raises:
        UsageError: the trainable parameters are more than the heads.
    """
    towers = engine.towers
    if towers.trainable != "heads":
        raise UsageError("--curvature fisher has per-sample gradients of the heads only; use ggn, or --trainable heads")
    image, text = (
        Head(towers.parameters[tower.head], tower.head_is_linear, project.parts[tower.head]) for tower in towers.heads
    )
    h_image = torch.cat([state[0] for state, _ in batch.states])
    h_text = torch.cat([state[0] for _, state in batch.states])
    by_name = dict(
        zip(
            (tower.head for tower in towers.heads),
            logra.positive_head_gradients(h_image, h_text, image, text, towers.scale),
            strict=True,
        )
    )
    first, second = (by_name[name] for name in project.parts)
    return first, second


def _noise_seed(seed: int, shard: str, batch: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{shard}:{batch}".encode()).digest()[:7])


def reduce(run: Run, engine: Engine, progress: Progress = Silent()) -> None:
    """Add the partials, factorise, project the validation gradient, solve, lift; write direction and meta.

    Raises:
        UsageError: no pair of the corpus, or too few of the validation set, could be used.
        InputError: a partial is missing or was made for other parameters.
    """
    if is_done(run):
        return
    sample = freeze_sample(run)
    project = projection(run.settings, engine, torch.float64)
    gram, pairs, problems = _sum_partials(run, sample, project.size)
    if not pairs:
        why = "; ".join(sorted(problems.values())[:2]) or (
            f"every shard has fewer pairs than --min-batch ({run.settings.smallest_batch})"
        )
        raise UsageError(f"the curvature cannot be fitted: no pair of the fit sample could be used: {why}")
    try:
        factor = curvature.factorise(
            gram.to(engine.towers.device) * (sample.corpus_pairs / pairs),
            run.settings.factor_rank,
            run.settings.damping,
        )
    except ValueError as error:
        raise UsageError(f"the curvature cannot be factorised: {error}") from error
    validation = load_validation(run.validation, run.settings, run.storage, engine, progress)
    direction = solve(factor, project, validation.gradient, keep_complement=run.settings.complement == "keep")
    if not all(torch.isfinite(part).all() for part in direction.values()):
        raise UsageError("the direction is not finite; raise --damping or use --precision fp64")
    _write(run, engine, sample, pairs, problems, factor, project, validation, direction)


def solve(
    factor: Factor, project: Projection, gradient: dict[str, Tensor], *, keep_complement: bool
) -> dict[str, Tensor]:
    """w = H^-1 g by parameter name: the lift of the damped solution of the projected system.

    Outside the projection the curvature is not known; its part of g is dropped, or divided by delta.
    """
    wide = {name: part.to(torch.float64) for name, part in gradient.items()}
    projected = project.project(wide)
    direction = project.lift(factor.solve(projected))
    if keep_complement:
        inside = project.lift(projected)
        direction = {name: part + (wide[name] - inside[name]) / factor.delta for name, part in direction.items()}
    return direction


def _sum_partials(run: Run, sample: FitSample, size: int) -> tuple[Tensor, int, dict[str, str]]:
    gram = torch.zeros(size, size, dtype=curvature.GRAM_DTYPE)
    pairs, problems = 0, {}
    for name in sample.shards:
        url = run.layout.partial(run.fit_key, name)
        data = run.storage.read_bytes(url)
        part = load_tensors(data)["gram"]
        if part.shape != gram.shape:
            raise InputError(f"was made for {part.shape[0]} projected numbers, not {size}; use a new --out", url=url)
        facts = _facts(data)
        gram += part
        pairs += int(facts["pairs"])
        if facts["problem"]:
            problems[name] = facts["problem"]
    return gram, pairs, problems


def _facts(data: bytes) -> dict[str, Any]:
    """The JSON that stands in a safetensors file's metadata."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    facts: dict[str, Any] = json.loads(header["__metadata__"]["ecif"])
    return facts


def _write(
    run: Run,
    engine: Engine,
    sample: FitSample,
    pairs: int,
    problems: dict[str, str],
    factor: Factor,
    project: Projection,
    validation: Validation,
    direction: dict[str, Tensor],
) -> None:
    layout, key = run.layout, run.fit_key
    tensors = {"vectors": factor.vectors.cpu(), "values": factor.values.cpu()}
    with TemporaryDirectory(prefix="ecif-") as folder:
        for url, content in (
            (layout.factor(key), tensors),
            (layout.validation(key), {"digests": validation.digests}),
            (layout.direction(key), {name: part.cpu().contiguous() for name, part in direction.items()}),
        ):
            file = Path(folder, "tensors")
            file.write_bytes(save_tensors(content))
            # Two runs that fit at the same time may differ in the last digits; the first one stands.
            if not run.storage.exists(url):
                run.storage.publish(url, file)
    coverage = engine.towers.coverage
    meta = {
        "N": sample.corpus_pairs,
        "N_fit": pairs,
        "shards": list(sample.shards),
        "problems": problems,
        "curvature": run.settings.curvature,
        "damping": {
            "delta": factor.delta,
            "lambda": factor.delta / sample.corpus_pairs,
            "mean_eigenvalue": factor.mean_eigenvalue,
        },
        "factor_rank": len(factor.values),
        "effective_dimension": factor.effective_dimension,
        "projected_size": project.size,
        "projection": {name: [list(part.shape), list(part.ranks)] for name, part in project.parts.items()},
        "coverage": {"covered": coverage.covered, "total": coverage.total},
        "validation": {
            "pairs": validation.pairs,
            "refused": validation.refused,
            "loss": validation.loss,
            "gradient_norm": validation.gradient_norm,
        },
        "model": engine.towers.loaded.fingerprint,
        "device": engine.towers.device.type,
        "versions": versions(),
    }
    if not is_done(run):
        run.storage.publish_json(layout.fit_meta(key), meta)
