"""Scores of a corpus under a model trained on it, and edited weights: what the study of removal decides by.

Influence and the similarities come from the pipeline's own stages, `fit` and `score`, as files in the work directory;
the baselines that are not among its columns from the study of detection, on the inputs of the heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from bench.fitting import fit_whole
from bench.method.detection_heads import Heads
from bench.method.detection_scores import Detectors
from bench.method.detection_sets import Features, Model, Set
from bench.method.removal_corpora import Corpus
from ecif import ALGO_VERSION
from ecif.demo import training
from ecif.demo.training import Data
from ecif.detectors import NAMES, facts
from ecif.fields import build
from ecif.keys import digest
from ecif.run import Run, open_run
from ecif.settings import MethodSettings, ScoreSettings
from ecif.stages import edit, fit, removal, score
from ecif.stages.edit import Outcome
from ecif.stages.engine import load_engine
from ecif.towers import Towers
from ecif.towers.loading import load

# Influence beside the pipeline's defaults: living in all parameters; on the zero-shot loss over the classes' captions.
VARIANTS: dict[str, dict[str, Any]] = {
    "influence_all": {"trainable": "all", "sketches": 4},  # fewer sketches: each is a backward pass through everything
    "influence_classes": {"objective": "prompts"},
}


def method(options: Mapping[str, str]) -> str:
    """What stands for the settings of the pipeline in the key of a result."""
    chosen = build(MethodSettings, dict(options))
    return digest({"version": ALGO_VERSION, **chosen.model_dump(mode="json")})


def masked(options: Mapping[str, str]) -> bool:
    """Whether equal captions are out of each other's softmax."""
    return options.get("equal_captions", MethodSettings().equal_captions) == "mask"


def scored(
    corpus: Corpus, weights: Path, work: Path, options: Mapping[str, str], variant: str = "influence"
) -> tuple[Run, pl.DataFrame]:
    """Fit and score by the pipeline, with its defaults but for `options`, and the batch, which is that of the training.

    Raises:
        ValueError: the corpus has no classes, and the variant needs them.
    """
    values: dict[str, Any] = {
        "model": str(corpus.config),
        "pretrained": str(weights),
        "validation": (str(corpus.validation),),
        "out": str(work / f"out-{variant}"),
        "batch_size": corpus.recipe.batch,
        "device": "cpu",
        "workers": 0,
        **VARIANTS.get(variant, {}),
        **options,
    }
    if "objective" in values:
        if corpus.prompts is None:
            raise ValueError(f"{variant}: the captions of {corpus.name} are no classes")
        values["objective"] = f"prompts:{corpus.prompts}"
    settings = build(ScoreSettings, values)
    run = open_run([str(tar) for tar in corpus.tars], settings)
    engine = load_engine(settings)
    if not fit.is_done(run):
        fit_whole(run, engine)
    direction = score.load_direction(run, engine)
    for shard in run.inventory.shards:
        score.score_shard(run, engine, shard, direction)
    tables = [pl.read_parquet(run.layout.scores(run.score_key, shard.name)) for shard in run.inventory.shards]
    return run, pl.concat(tables)


def badness(
    corpus: Corpus, weights: Path, work: Path, names: Sequence[str], options: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Scores by name, (N,) in the order of the corpus, higher for worse."""
    found: dict[str, np.ndarray] = {}
    if set(names) & set(NAMES):
        table = scored(corpus, weights, work, options)[1]
        found |= {name: _aligned(corpus.data, table, name) for name in names if name in NAMES}
    for name in set(names) & set(VARIANTS):
        found[name] = _aligned(corpus.data, scored(corpus, weights, work, options, name)[1], "influence")
    others = [name for name in names if name not in (*NAMES, *VARIANTS)]
    if others:
        found_set = _features(corpus, weights)
        detectors = Detectors(Heads(found_set, found_set.model))
        found |= {name: detectors.badness(name) for name in others}
    return found


def edited(
    corpus: Corpus, weights: Path, work: Path, options: Mapping[str, str], rows: np.ndarray, target: Path
) -> Outcome:
    """Weights without the pairs at `rows`, by model editing, written to `target`."""
    run, _ = scored(corpus, weights, work, options)
    listing = work / "remove.txt"
    listing.write_text("".join(f"{corpus.data.uids[row]}\n" for row in rows.tolist()), "utf-8")
    gone = removal.by_names(run, str(listing))
    engine = load_engine(run.settings)
    for shard in edit.todo(run, gone):
        edit.map_shard(run, engine, shard, gone)
    return edit.reduce(run, engine, gone, str(target))


def _aligned(data: Data, table: pl.DataFrame, name: str) -> np.ndarray:
    scores = dict(table.select("uid", name).rows())
    values = np.array([scores[uid] for uid in data.uids], dtype=np.float64)
    return values if facts(name).higher_is_worse else -values


def _features(corpus: Corpus, weights: Path) -> Set:
    """The corpus as the study of detection has it; which pairs are wrong stays out of it."""
    towers = Towers(load(str(corpus.config), str(weights)), "heads", torch.device("cpu"))
    validation = training.read((corpus.validation,), corpus.config)
    n = len(corpus.data.uids)
    unknown, nothing = np.full(n, "", dtype=object), np.zeros(n, dtype=bool)
    model = Model(_inputs(towers, corpus.data), _inputs(towers, validation))
    return Set(
        corpus.name, corpus.data.uids, corpus.data.captions, validation.captions, nothing, unknown, nothing, nothing,
        model, (), "",
    )  # fmt: skip


def _inputs(towers: Towers, data: Data) -> Features:
    """What the heads of a model are given."""
    image_head, text_head = (towers.parameters[tower.head] for tower in towers.heads)
    captions = [list(data.captions[at : at + 256]) for at in range(0, len(data.captions), 256)]
    return Features(
        torch.cat([towers.image_stem(part)[0] for part in data.images.split(256)]),
        torch.cat([towers.text_stem(part)[0] for part in captions]),
        image_head,
        text_head,
        towers.scale,
    )
