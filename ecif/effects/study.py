"""A study of effects: every variant of a corpus trained with every seed, each result kept as soon as it is there.

What is compared has to differ by the pairs alone. A seed's models start from the same weights in every variant and take
the same number of steps of the same size: those that the corpus as it is needs for its epochs. So a smaller variant
sees each of its pairs more often, and no variant is trained less. With the same number of epochs instead, leaving out
pairs would also cost steps, and every detector would be charged for it.

Each result is one small file, named by all that it depends on: a study that was stopped goes on where it was, more
seeds or detectors are added to what is there, and two machines can work on one study.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecif import detectors, inventory, keys
from ecif.calibration import state
from ecif.calibration.learned import Model
from ecif.effects import population, variants
from ecif.effects.population import Population
from ecif.errors import InputError, UsageError
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.nearest import did_you_mean
from ecif.progress import Progress, Silent
from ecif.sources import Found, expand
from ecif.stages.scored import only_score_key, score_meta, scored_shards
from ecif.storage import Storage

VERSION = 1
USUAL = ("clip_score", "neg_clip_loss", "influence")
"""Compared if nothing is named, with the learned detector where there are canaries."""

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How every model is trained: passes over the corpus as it is, pairs in a step, and AdamW's largest step."""

    epochs: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be studied.

    Attributes:
        evaluation: tars of clean pairs. prompts: URL of class prompts; empty: no zero-shot accuracy.
        compare: score columns; empty: `USUAL`. drop: share that every variant but the first leaves out.
        seeds: 1 to this. model: open_clip config, None: the demo's. most: pairs that take part.
    """

    evaluation: tuple[str, ...]
    drop: Decimal
    prompts: str = ""
    compare: tuple[str, ...] = ()
    seeds: int = 5
    recipe: Recipe = Recipe(8, 256, 1.5e-3)
    model: Path | None = None
    most: int = 20_000


@dataclass(frozen=True, slots=True)
class Cell:
    """One trained model: what it left out, and how well it does.

    Attributes:
        pairs: that it was trained on. losses: mean training loss of each pass. measures: as `judging.judge` names them.
        judged_by: pairs of the evaluation set. seen: of its images, those that influence was measured on, too.
    """

    variant: str
    seed: int
    pairs: int
    steps: int
    losses: tuple[float, ...]
    measures: Mapping[str, float]
    judged_by: int
    seen: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Study:
    """All that is settled before an image is read.

    Attributes:
        rows: by variant, then by seed: what is left out, places in the population. steps: of every model.
        evaluation: the tars to judge by. model: the config.
    """

    key: str
    layout: Layout
    storage: Storage
    request: Request
    population: Population
    rows: Mapping[str, Mapping[int, Rows]]
    shards: Mapping[str, Shard]
    evaluation: tuple[Found, ...]
    model: Path
    score_key: str
    caption: str
    steps: int

    def url(self, variant: str, seed: int) -> str:
        """Where the result of a model is kept."""
        left_out = hashlib.sha256(self.rows[variant][seed].astype("<i8").tobytes()).hexdigest()[:8]
        return self.layout.effect(self.key, seed, f"{variant.replace(' ', '-')}-{left_out}")

    def found(self, variant: str, seed: int) -> Cell | None:
        """The result of a model, where it is there.

        Raises:
            InputError: the file holds something else.
        """
        url = self.url(variant, seed)
        if not self.storage.exists(url):
            return None
        value = self.storage.read_json(url)
        try:
            return Cell(**(value | {"losses": tuple(value["losses"])}))
        except (TypeError, KeyError) as error:
            raise InputError(f"is not a result of bench effects ({error}); remove it", url=url) from error

    def todo(self) -> Iterator[tuple[int, str]]:
        """Seed and variant of every model that is still to be trained, seed after seed."""
        there = {file.url for file in self.storage.list(self.layout.effects(self.key), ".json")}
        for seed in range(1, self.request.seeds + 1):
            yield from ((seed, name) for name in self.rows if self.storage.check(self.url(name, seed)) not in there)


def prepare(
    layout: Layout, storage: Storage, request: Request, score_key: str | None = None, progress: Progress = Silent()
) -> Study:
    """Settle which pairs take part and what each variant leaves out.

    Raises:
        UsageError: no scores, no such score, a share or a batch that leaves nothing to compare, too few seeds.
        InputError: a table cannot be read.
    """
    if not request.evaluation:
        raise UsageError("--evaluation is needed: tars of clean pairs that are not in the corpus, to judge models by")
    if request.seeds < 2:
        raise UsageError(f"--seeds: {request.seeds} model says nothing about luck; two are needed, five say more")
    if request.recipe.epochs < 1 or request.recipe.batch_size < 2 or request.recipe.learning_rate <= 0:
        raise UsageError("--epochs and --learning-rate are above 0, and --batch-size is at least 2")
    score_key = score_key or only_score_key(layout, storage)
    settings = score_meta(layout, storage, score_key)["settings"]
    compared, model = _compared(layout, storage, request, score_key, settings, progress)
    shards = inventory.load(layout, storage).by_name()
    scored = sorted(scored_shards(layout, storage, score_key) & set(shards))
    tables = {shard: layout.scores(score_key, shard) for shard in scored}
    people = population.draw(storage, tables, compared, model, request.most)
    count, recipe = variants.size(people, request.drop), request.recipe
    if len(people) - count < recipe.batch_size:
        raise UsageError(
            f"--batch-size {recipe.batch_size}: the {len(people) - count:,} pairs that stay do not fill one batch"
        )
    config = request.model or Path(str(resources.files("ecif.demo").joinpath("model.json")))
    evaluation = expand(request.evaluation, storage).shards
    names = (variants.AS_IS, variants.RANDOM, *compared)
    seeds = range(1, request.seeds + 1)
    rows = {name: {seed: variants.dropped(people, name, count, seed) for seed in seeds} for name in names}
    contents = {
        "version": VERSION,
        "torch": metadata.version("torch"),
        "scores": score_key,
        "caption": settings.get("caption", "txt"),
        "pairs": people.digest,
        "recipe": asdict(recipe),
        "model": storage.fingerprint(str(config)),
        "evaluation": [storage.fingerprint(found.url) for found in evaluation],
        "prompts": storage.fingerprint(request.prompts) if request.prompts else "",
    }
    steps = recipe.epochs * (len(people) // recipe.batch_size)
    key = keys.digest(contents)
    return Study(
        key, layout, storage, request, people, rows, shards, evaluation, config, score_key, contents["caption"], steps
    )


def _compared(
    layout: Layout,
    storage: Storage,
    request: Request,
    score_key: str,
    settings: Mapping[str, Any],
    progress: Progress,
) -> tuple[tuple[str, ...], Model | None]:
    """The scores to compare, each once, and the learned detector where it is one of them."""
    planted = float(settings.get("canaries", 0.0))
    compared = tuple(dict.fromkeys(request.compare)) or (*USUAL, *([detectors.LEARNED] if planted else []))
    for name in compared:
        if name not in (*detectors.COLUMNS, detectors.LEARNED):
            hint = did_you_mean(name, (*detectors.COLUMNS, detectors.LEARNED))
            raise UsageError(f"--compare: there is no score {name!r}.{hint}")
        if name in detectors.OPTIONAL and name not in settings.get("columns", ()):
            raise UsageError(f"--compare {name}: these scores have no such column; score again with --columns {name}")
    if detectors.LEARNED not in compared:
        return compared, None
    try:
        key = keys.canary_key(score_key, planted)
        return compared, state.calibrate(layout, storage, score_key, key, progress=progress).model
    except UsageError as refusal:
        if request.compare:
            raise
        progress.note(f"{detectors.LEARNED} is left out: {refusal}")
        return tuple(name for name in compared if name != detectors.LEARNED), None
