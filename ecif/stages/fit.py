"""Fit: from a sample of the corpus to the direction w = H^-1 grad L_val, as a map and a reduce over files.

    freeze_sample       which shards, decided once and written down before the first is read
    freeze_projection   the rows onto which gradients are projected (`basis`)
    map_shard           one shard -> partial/<shard>.safetensors, the second moments of its projected gradients
    reduce              partials, added in the order of the shards' names -> factor, gradient, direction

No array travels but through files, so shards may be mapped anywhere and in any order.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from ecif import curvature, gradients
from ecif.agreement import canonical, settle
from ecif.curvature import Curvature, Structure
from ecif.curvature.moments import zeros
from ecif.errors import BadTarError, InputError, UsageError
from ecif.inventory import Shard
from ecif.logra import Projection
from ecif.progress import Progress, Silent
from ecif.run import Run, versions
from ecif.settings import MethodSettings, ScoreSettings
from ecif.stages import basis, fitted, sums
from ecif.stages.basis import freeze_projection as freeze_projection
from ecif.stages.basis import load_projection as load_projection
from ecif.stages.batches import Batch, embed, pull_back_projected, with_states
from ecif.stages.engine import Engine
from ecif.stages.extension import Earlier, earlier
from ecif.stages.fitted import is_done as is_done
from ecif.stages.fitted import load_fit as load_fit
from ecif.stages.fitted import solve as solve
from ecif.stages.memory import batch_bounded, bounded
from ecif.stages.sums import Moments
from ecif.stages.validation import Validation, load_validation

SHARE = 100  # the fit sample is at least 1 / SHARE of the corpus


@dataclass(frozen=True, slots=True)
class FitSample:
    """What the curvature is fitted on, frozen before the first shard is read.

    Attributes:
        shards: names, sorted. corpus_pairs: pairs of the corpus (N). new_pairs: those that no earlier fit stands for.
    """

    shards: tuple[str, ...]
    corpus_pairs: int
    new_pairs: int


def freeze_sample(run: Run) -> FitSample:
    """Choose the shards of the fit, or read what was chosen before.

    Shards come in the order of sha256(seed, name) until they hold max(fit_pairs, 1 % of the corpus) pairs. With
    an earlier fit only shards that it does not stand for are taken; the identity needs none.

    Raises:
        UsageError: no shard of the corpus could be counted; there is no fit to extend.
    """
    url = run.layout.fit_sample(run.fit_key)
    if run.storage.exists(url):
        frozen = run.storage.read_json(url)
    else:
        before = earlier(run)
        shards = [shard for shard in run.inventory.shards if not (before and before.holds(shard))]
        sizes = {shard.name: shard.samples for shard in shards if shard.samples}
        if not sizes and not before:
            raise UsageError("the corpus holds no sample: there is nothing to fit the curvature on")
        total = sum(sizes.values())
        wanted = max(run.settings.fit_pairs, -(-total // SHARE))
        seed = run.settings.seed
        order = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
        chosen: list[str] = []
        pairs = 0
        for name in order:
            if run.settings.curvature == "identity" or pairs >= wanted:
                break
            chosen.append(name)
            pairs += sizes[name]
        corpus = total + (before.corpus_pairs if before else 0)
        record = {"shards": sorted(chosen), "corpus_pairs": corpus, "new_pairs": total}
        # Two runs that see different arrivals choose different samples: one of them holds.
        frozen = json.loads(settle(url, canonical(record), run.storage))
    return FitSample(tuple(frozen["shards"]), frozen["corpus_pairs"], frozen["new_pairs"])


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


def structure(settings: MethodSettings) -> Structure:
    """What is kept of the second moments."""
    return "diagonal" if settings.curvature == "ekfac" else settings.blocks


def sample_shards(run: Run, sample: FitSample) -> list[Shard]:
    """The shards of the sample, in its order."""
    by_name = run.inventory.by_name()
    return [by_name[name] for name in sample.shards]


def map_shard(run: Run, engine: Engine, project: Projection, shard: Shard) -> None:
    """Write the partial file of one shard, unless it exists.

    A shard that is no tar gives an empty partial with the reason, so that one bad shard does not keep the others from
    being fitted.

    Args:
        project: the run's projection, in the arithmetic of the towers.
    """
    url = run.layout.partial(run.fit_key, shard.name)
    if run.storage.exists(url):
        return
    kind = structure(run.settings)
    total = zeros(project, kind, engine.towers.device)
    pairs, problems = 0, {}
    try:
        with batch_bounded(engine.towers.device, run.settings):
            for batch, noise in basis.batches(run, engine, shard):
                rows = _projected(run.settings, engine, batch, project, noise)
                for name, part in curvature.second_moments(rows, project, kind).items():
                    total[name] += part
                pairs += batch.size
    except BadTarError as error:
        total = zeros(project, kind, engine.towers.device)
        pairs, problems = 0, {shard.name: str(error)}
    run.storage.publish_first(url, sums.pack(Moments(total, pairs, problems)))


def _projected(
    settings: ScoreSettings, engine: Engine, batch: Batch, project: Projection, noise: torch.Generator
) -> Tensor:
    """Rows whose outer products sum to the projected curvature of the batch (in expectation, from sketches)."""
    captions_B = batch.competing(settings)

    def of_each_pair(states: gradients.States) -> dict[gradients.Role, Tensor]:
        if settings.curvature == "fisher":
            return gradients.projected_gradients(engine.towers, states, project, ("positive",), captions_B=captions_B)
        # Without the others' embeddings: each pair reaches through its own alone.
        return gradients.reverse_gradients(
            engine.towers, states, project, ("positive",), hardest=0, captions_B=captions_B
        )

    if settings.curvature in ("fisher", "pointwise"):
        return with_states(engine, batch.states, of_each_pair)["positive"]
    u_BD, v_BD = embed(engine, batch)
    sketches = curvature.ggn_sketches(u_BD, v_BD, engine.towers.scale, settings.sketches_per_batch, noise, captions_B)
    return pull_back_projected(engine, batch, sketches, project) / settings.sketches_per_batch**0.5


def reduce(run: Run, engine: Engine, progress: Progress = Silent()) -> None:
    """Add the partials, factorise, project the validation gradient, solve, lift; write direction and meta.

    Raises:
        UsageError: no pair of the corpus, or too few of the validation set, could be used.
        InputError: a partial is missing or was made for other parameters.
    """
    if is_done(run):
        return
    sample = freeze_sample(run)
    project = load_projection(run, engine, torch.float64)
    found, moments = _moments(run, engine, sample)
    device = engine.towers.device
    try:
        with bounded(device, f"the curvature of {project.size:,} projected numbers", "lower --logra-rank"):
            factor = _factor(run, engine, sample, moments, project)
    except ValueError as error:
        raise UsageError(f"the curvature cannot be factorised: {error}") from error
    with batch_bounded(device, run.settings):
        validation = load_validation(run.validation, run.settings, run.storage, engine, progress)
    with bounded(device, "the solution for all trainable parameters", "use fewer: --trainable heads or last:1"):
        direction = solve(factor, project, validation.gradient, keep_complement=run.settings.complement == "keep")
    if not all(torch.isfinite(part).all() for part in direction.values()):
        raise UsageError("the direction is not finite; raise --damping or use --precision fp64")
    _write(run, engine, sample, found, moments, factor, project, validation, direction)


def _moments(run: Run, engine: Engine, sample: FitSample) -> tuple[Moments, Moments]:
    """What the sample gave, and the moments of the corpus: scaled to it, the earlier fit's added."""
    urls = [run.layout.partial(run.fit_key, name) for name in sample.shards]
    found = sums.add_up(run, urls) if urls else Moments({}, 0)
    before = earlier(run)
    if not found.pairs and not before and run.settings.curvature != "identity":
        why = "; ".join(sorted(found.problems.values())[:2]) or (
            f"every shard has fewer pairs than --min-batch ({run.settings.smallest_batch})"
        )
        raise UsageError(f"the curvature cannot be fitted: no pair of the fit sample could be used: {why}")
    factor = sample.new_pairs / max(found.pairs, 1)
    scaled = Moments({name: part * factor for name, part in found.tensors.items()}, found.pairs, found.problems)
    return found, _extended(run, engine, scaled, before) if before else scaled


def _extended(run: Run, engine: Engine, mine: Moments, before: Earlier) -> Moments:
    url = before.moments()
    theirs, about = sums.unpack(url, run.storage)
    fitted.check(about, engine, url)
    if not mine.pairs:
        return theirs
    if sums.shapes(theirs.tensors) != sums.shapes(mine.tensors):
        raise InputError("cannot be extended: its curvature has another structure, see --curvature, --blocks", url=url)
    total = {name: part + mine.tensors[name] for name, part in theirs.tensors.items()}
    return replace(mine, tensors=total, pairs=mine.pairs + theirs.pairs)


def _factor(run: Run, engine: Engine, sample: FitSample, moments: Moments, project: Projection) -> Curvature:
    settings, device = run.settings, engine.towers.device
    if settings.curvature == "identity":
        return curvature.identity(project.size, sample.corpus_pairs, settings.damping, device)
    # In the projection's order, which a file does not keep.
    names = tuple(project.parts) if structure(settings) == "layer" else tuple(moments.tensors)
    tensors = {name: moments.tensors[name].to(device) for name in names}
    return curvature.from_moments(tensors, structure(settings), settings.factor_rank, settings.damping)


def _write(
    run: Run,
    engine: Engine,
    sample: FitSample,
    found: Moments,
    moments: Moments,
    factor: Curvature,
    project: Projection,
    validation: Validation,
    direction: dict[str, Tensor],
) -> None:
    layout, key = run.layout, run.fit_key
    for url, content in (
        (layout.moments(key), sums.pack(moments, fitted.made_for(engine))),
        (layout.factor(key), fitted.pack(factor.tensors(), engine)),
        (layout.validation(key), save_tensors({"digests": validation.digests})),
        (layout.gradient(key), fitted.pack(validation.gradient, engine)),
        (layout.direction(key), fitted.pack(direction, engine)),
    ):
        # Two runs that fit at the same time may differ in the last digits; the first one stands.
        run.storage.publish_first(url, content)
    coverage = engine.towers.coverage
    meta = {
        "made_for": fitted.made_for(engine),
        "N": sample.corpus_pairs,
        "N_fit": moments.pairs,
        "shards": list(sample.shards),
        "problems": found.problems,
        "curvature": run.settings.curvature,
        "structure": structure(run.settings),
        "damping": {
            "delta": factor.delta,
            "lambda": factor.delta / sample.corpus_pairs,
            "mean_eigenvalue": factor.mean_eigenvalue,
        },
        "factor_rank": factor.rank,
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
    run.storage.publish_first(layout.fit_meta(key), canonical(meta))
