"""Pairs in memory, and a model to start from: what the ground truth is made of.

Two sources: the demo's rendered scenes with a small model trained on the spot, and CIFAR-10 pictures with human
labels as captions (`--data DIR`: DIR/cifar10n, DIR/truth, and the model in DIR/../models/cifar10-tiny, see bench.real).
Corpus pairs are partly wrong, as found; validation and test pairs are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from ecif.demo import corpus, training
from ecif.shards.decode import Pair, decode_image
from ecif.shards.tar import Limits
from ecif.stages.reading import read_pairs
from ecif.storage import Storage
from ecif.towers.loading import load

DEMO_PAIRS, DEMO_CLEAN, DEMO_EPOCHS = 2048, 1024, 16


@dataclass(frozen=True, slots=True)
class Pictures:
    """n pairs: images behind the model's transform, (n, 3, H, W), captions, and which of them are wrong, (n,)."""

    images: Tensor
    captions: tuple[str, ...]
    wrong: Tensor

    def take(self, rows: Tensor) -> Pictures:
        """The pairs at `rows`."""
        return Pictures(self.images[rows], tuple(self.captions[row] for row in rows.tolist()), self.wrong[rows])


@dataclass(frozen=True, slots=True)
class Material:
    """A corpus, right pairs apart from it, and an open_clip model that knows such pairs."""

    name: str
    corpus: Pictures
    clean: Pictures
    config: Path
    weights: Path


@dataclass(frozen=True, slots=True)
class Draw:
    """What one seed takes: disjoint."""

    train: Pictures
    validation: Pictures
    test: Pictures


def material(data: Path | None, work: Path) -> Material:
    """CIFAR-10N under `data`, or without it the demo's scenes; the latter are rendered and trained on in `work`."""
    return _demo(work) if data is None else _cifar10n(data)


def draw(source: Material, seed: int, train: int, validation: int, test: int = 512) -> Draw:
    """A seed's own pairs.

    Raises:
        ValueError: the source has too few of them.
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    if train > len(source.corpus.captions) or validation + test > len(source.clean.captions):
        raise ValueError(f"{source.name} has not as many pairs as {train} + {validation} + {test}")
    from_corpus = torch.randperm(len(source.corpus.captions), generator=generator)[:train]
    from_clean = torch.randperm(len(source.clean.captions), generator=generator)[: validation + test]
    return Draw(
        source.corpus.take(from_corpus),
        source.clean.take(from_clean[:validation]),
        source.clean.take(from_clean[validation:]),
    )


def _demo(work: Path) -> Material:
    root = work / f"scenes-{DEMO_PAIRS}-{DEMO_CLEAN}"
    weights = root / f"weights-{DEMO_EPOCHS}.safetensors"
    config = root / "model.json"
    if not weights.exists():
        root.mkdir(parents=True, exist_ok=True)
        made = corpus.build(root, pairs=DEMO_PAIRS, validation_pairs=DEMO_CLEAN, shards=1, wrong=0.16, seed=0)
        part = root / "part.safetensors"
        training.train(made.shards, config, part, epochs=DEMO_EPOCHS, batch_size=128, lr=1e-3, seed=0)
        part.rename(weights)
    truth = pl.read_parquet(root / "truth.parquet")
    pictures = _read([root / "raw" / "00000.tar"], truth, config, weights)
    clean = _read([root / "validation" / "00000.tar"], None, config, weights)
    return Material("demo scenes", pictures, clean, config, weights)


def _cifar10n(data: Path) -> Material:
    model = data.parent / "models" / "cifar10-tiny"
    config, weights = model / "cifar10-tiny.json", model / "weights.safetensors"
    truth = pl.read_parquet(data / "truth" / "cifar10n_truth.parquet")
    tars = [data / "cifar10n" / f"{n:06d}.tar" for n in range(5)]
    pictures = _read(tars[:4], truth, config, weights)
    last = _read(tars[4:], truth, config, weights)
    return Material("cifar10n", pictures, last.take((~last.wrong).nonzero()[:, 0]), config, weights)


def _read(tars: Sequence[Path], truth: pl.DataFrame | None, config: Path, weights: Path) -> Pictures:
    transform = load(str(config), str(weights)).transform
    wrong = {} if truth is None else dict(truth.select("uid", "misaligned").iter_rows())
    images, captions, flags = [], [], []
    for tar in tars:
        for pair in read_pairs(str(tar), tar.stem, Storage(), "txt", Limits()):
            if isinstance(pair, Pair):
                images.append(transform(decode_image(pair.image, Limits())))
                captions.append(pair.caption)
                flags.append(bool(wrong.get(pair.uid, False)))
    return Pictures(torch.stack(images), tuple(captions), torch.tensor(flags))
