"""Corpora for training from scratch many times: pairs in memory, a recipe, and held-out pairs to judge a model by.

    cifar10n   shards 0 to 3, human labels as captions; right pairs of shard 4 for validation and, apart from these,
               for the test: zero-shot classification of their images among the ten captions
    demo       rendered scenes, 16 % of the captions wrong; right pairs of other scenes for validation and test:
               which of all test captions belongs to an image

The models are small enough to be trained a hundred times on a CPU, and weak accordingly.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from bench.real import select
from ecif import contrastive
from ecif.demo import corpus, training
from ecif.demo.training import Data
from ecif.segmentation import segment
from ecif.towers.loading import load

VALIDATION = 256  # right pairs that influence is measured on
SEGMENTATIONS = 5  # of the test pairs
SCENES, HELD_OUT = 4_000, 768  # of the demo's corpus, and right pairs apart from it


@dataclass(frozen=True, slots=True)
class Recipe:
    """How every model of a corpus is trained."""

    epochs: int
    batch: int
    lr: float


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out images (M, 3, H, W), the captions to choose from, and which one is right, (M,)."""

    images: Tensor
    captions: tuple[str, ...]
    right: Tensor


@dataclass(frozen=True, slots=True)
class Verdict:
    """Share of test images whose right caption has the highest similarity, and their mean cross-entropy."""

    accuracy: float
    loss: float


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus of N pairs with known mistakes.

    Attributes:
        tars, validation: what the pipeline reads. data: the pairs of the tars. wrong: bool (N,).
        prompts: classes and their captions, for a zero-shot objective; None where captions are no classes.
    """

    name: str
    tars: tuple[Path, ...]
    validation: Path
    config: Path
    data: Data
    wrong: np.ndarray
    test: HeldOut
    recipe: Recipe
    prompts: Path | None

    def train(self, rows: np.ndarray, seed: int, weights: Path) -> float:
        """Train from random weights on the pairs at `rows`; returns the seconds."""
        recipe = self.recipe
        report = training.train_on(
            self.data.take(torch.from_numpy(rows)),
            self.config,
            weights,
            epochs=recipe.epochs,
            batch_size=recipe.batch,
            lr=recipe.lr,
            seed=seed,
            augment=True,
        )
        return report.seconds

    def judge(self, weights: Path) -> Verdict:
        """How well a model tells the test captions apart."""
        u_MD, v_CD, scale = self._embed(weights)
        return verdict(contrastive.logits(u_MD, v_CD, scale), self.test.right)

    def contrastive_loss(self, weights: Path, *, masked: bool) -> float:
        """The validation loss of the pipeline, on the test pairs instead: the mean of Pos / 2, five segmentations.

        Args:
            masked: equal captions are out of each other's softmax.
        """
        u_MD, v_CD, scale = self._embed(weights)
        v_MD, total = v_CD[self.test.right], 0.0
        for k in range(SEGMENTATIONS):
            for rows in segment([str(row) for row in range(len(v_MD))], self.recipe.batch, 0, k).batches:
                s_BB = contrastive.logits(u_MD[rows], v_MD[rows], scale)
                s_BB = contrastive.mask_equal(s_BB, self.test.right[rows]) if masked else s_BB
                total += float(contrastive.batch_loss(s_BB)) / 2
        return total / (SEGMENTATIONS * len(v_MD))

    def _embed(self, weights: Path) -> tuple[Tensor, Tensor, float]:
        """Test images, captions to choose from, and the logit scale, under a model."""
        loaded = load(str(self.config), str(weights))
        model: Any = loaded.model
        with torch.no_grad():
            u_MD = torch.cat([model.encode_image(part, normalize=True) for part in self.test.images.split(256)])
            v_CD = model.encode_text(loaded.tokenize(list(self.test.captions)), normalize=True)
        return u_MD, v_CD, float(model.logit_scale.detach().exp())


def verdict(s_MC: Tensor, right_M: Tensor) -> Verdict:
    """Accuracy and mean cross-entropy of logits, images by captions."""
    hits = (s_MC.argmax(1) == right_M).double().mean()
    return Verdict(float(hits), float(torch.nn.functional.cross_entropy(s_MC, right_M)))


def prepare(data: Path | None, work: Path, epochs: int | None) -> Corpus:
    """CIFAR-10N under `data`, or without it the demo's scenes, which are rendered in `work`."""
    return _cifar10n(data, work / "cifar10n", epochs) if data else _demo(work / "demo", epochs)


def _cifar10n(data: Path, root: Path, epochs: int | None) -> Corpus:
    root.mkdir(parents=True, exist_ok=True)
    truth = pl.read_parquet(data / "truth" / "cifar10n_truth.parquet")
    right = truth.filter((pl.col("shard") == "000004") & ~pl.col("misaligned")).select("shard", "key").rows()
    order = np.random.default_rng(0).permutation(len(right)).tolist()
    source = [data / "cifar10n" / "000004.tar"]
    validation, test = root / "validation.tar", root / "test.tar"
    select(source, {right[row] for row in order[:VALIDATION]}, validation)
    select(source, {right[row] for row in order[VALIDATION:]}, test)
    config = _config(root, size=32, patch=8, width=64, context=12)
    tars = tuple(data / "cifar10n" / f"{n:06d}.tar" for n in range(4))
    found = training.read((test,), config)
    captions = tuple(sorted(set(found.captions)))
    held_out = HeldOut(found.images, captions, torch.tensor([captions.index(caption) for caption in found.captions]))
    prompts = root / "prompts.json"
    classes = {
        name: [caption] for name, caption in truth.select("given_class", "caption").unique().sort("caption").rows()
    }
    prompts.write_text(json.dumps({"label": "label", "classes": classes}), "utf-8")
    recipe = Recipe(epochs or 10, 128, 2e-3)
    return _corpus("cifar10n", tars, validation, config, truth, held_out, recipe, prompts)


def _demo(root: Path, epochs: int | None) -> Corpus:
    stamp = root / "made"
    if not stamp.exists():
        root.mkdir(parents=True, exist_ok=True)
        corpus.build(root, pairs=SCENES, validation_pairs=HELD_OUT, shards=4, wrong=0.16, seed=0)
        stamp.touch()
    config = _config(root, size=48, patch=12, width=64, context=18)
    clean = pl.read_parquet(root / "validation" / "00000.parquet").filter(pl.col("status") == "success")
    keys = [("00000", key) for key in clean["key"]]
    validation, test = root / "validation.tar", root / "test.tar"
    select([root / "validation" / "00000.tar"], set(keys[:VALIDATION]), validation)
    select([root / "validation" / "00000.tar"], set(keys[VALIDATION:]), test)
    found = training.read((test,), config)
    held_out = HeldOut(found.images, found.captions, torch.arange(len(found.captions)))
    tars = tuple(sorted((root / "raw").glob("*.tar")))
    truth = pl.read_parquet(root / "truth.parquet")
    return _corpus("demo", tars, validation, config, truth, held_out, Recipe(epochs or 8, 128, 2e-3), None)


def _corpus(
    name: str,
    tars: tuple[Path, ...],
    validation: Path,
    config: Path,
    truth: pl.DataFrame,
    test: HeldOut,
    recipe: Recipe,
    prompts: Path | None,
) -> Corpus:
    data = training.read(tars, config)
    misaligned = dict(truth.select("uid", "misaligned").rows())
    wrong = np.array([misaligned[uid] for uid in data.uids])
    return Corpus(name, tars, validation, config, data, wrong, test, recipe, prompts)


def _config(root: Path, size: int, patch: int, width: int, context: int) -> Path:
    path = root / "model.json"
    vision = {"image_size": size, "patch_size": patch, "layers": 2, "width": width, "head_width": 32, "mlp_ratio": 2.0}
    text = {"context_length": context, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1, "mlp_ratio": 2.0}
    path.write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}), "utf-8")
    return path
