"""Train and judge the models of a study that are not there yet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from safetensors.torch import load as load_tensors

from ecif import progress as shows
from ecif.agreement import canonical
from ecif.demo.training import Data, trained
from ecif.effects import material
from ecif.effects.judging import HeldOut, judge
from ecif.effects.study import Cell, Study
from ecif.errors import InputError
from ecif.progress import Progress, Silent
from ecif.stages.scored import limits as saved_limits
from ecif.stages.scored import score_meta
from ecif.stages.validation import read_prompts


def run(study: Study, progress: Progress = Silent()) -> Sequence[Cell]:
    """All results of a study, those that were there and those that are made now, by seed and then by variant.

    Raises:
        UsageError: images of the evaluation set are in the corpus, or too few pairs to judge by.
        InputError: the corpus is not what was scored. StorageError: it cannot be read.
    """
    if todo := list(study.todo()):
        data, held_out, seen = _material(study, progress)
        with shows.shown(progress, "train", len(todo), "models"):
            for seed, variant in todo:
                cell = _cell(study, data, held_out, variant, seed, seen)
                # Another machine may have been first: its last bits count.
                study.storage.publish_first(study.url(variant, seed), canonical(asdict(cell)))
                progress.advance()
    cells = [study.found(variant, seed) for seed in range(1, study.request.seeds + 1) for variant in study.rows]
    if missing := sum(cell is None for cell in cells):
        raise InputError(f"{missing:,} results are gone while others were made", url=study.layout.effects(study.key))
    return [cell for cell in cells if cell is not None]


def _material(study: Study, progress: Progress) -> tuple[Data, HeldOut, int]:
    """Pairs to train on, pairs to judge by, and how many of these the influence was measured on, too."""
    layout, storage, request = study.layout, study.storage, study.request
    limits = saved_limits(layout, storage, study.score_key)
    prompts = read_prompts(request.prompts, storage) if request.prompts else None
    held_out, judged_by = material.read_held_out(study.evaluation, storage, study.caption, limits, study.model, prompts)
    data, trained_on = material.read_population(
        study.population, study.shards, storage, study.caption, limits, study.model, progress
    )
    material.refuse_overlap(trained_on, judged_by)
    fit_key = score_meta(layout, storage, study.score_key)["fit_key"]
    seen = 0
    if storage.exists(url := layout.validation(fit_key)):
        measured_on = load_tensors(storage.read_bytes(url))["digests"].numpy()
        seen = len(judged_by & {row.tobytes() for row in measured_on})
    return data, held_out, seen


def _cell(study: Study, data: Data, held_out: HeldOut, variant: str, seed: int, seen: int) -> Cell:
    started = time.perf_counter()
    recipe = study.request.recipe
    kept = np.setdiff1d(np.arange(len(study.population)), study.rows[variant][seed])
    network, losses = trained(
        data.take(torch.from_numpy(kept)),
        study.model,
        steps=study.steps,
        batch_size=recipe.batch_size,
        lr=recipe.learning_rate,
        seed=seed,
        augment=True,
    )
    measures = judge(network, held_out)
    seconds = round(time.perf_counter() - started, 1)
    return Cell(variant, seed, len(kept), study.steps, tuple(losses), measures, len(held_out.data.uids), seen, seconds)
