"""Corpora whose wrong pairs are known, under models of growing training, as features of the last projections.

    cifar10n            4,000 pairs, human labels as captions; the model beside the data
    demo                6,000 rendered scenes, four kinds of mistake; trained here
    flickr8k_swap       2,000 pairs, three kinds of mistake; a small model trained here on these very pairs: weak
    flickr8k_human_dev  500 pairs that people judged; the same weak model

The truth selects validation pairs and judges scores; nothing in between sees it. A corpus is split once, by a hash of
the uids, into a half to explore on and a half to report on. The features (inputs of the heads) are kept in the work
directory: every score of the study is a function of them. `runs` are trainings of the same corpus from the same random
weights over fewer epochs, each with a whole schedule of its own: the checkpoints of the study.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.real import FLICKR_MODEL, select
from ecif.demo import corpus, training
from ecif.demo.mistakes import CLEAN
from ecif.demo.run import BATCH, EPOCHS, LEARNING_RATE, SHARDS, VALIDATION_PAIRS, WRONG
from ecif.shards.decode import Pair, decode_image
from ecif.shards.tar import Limits
from ecif.stages.reading import read_pairs
from ecif.storage import Storage
from ecif.towers import Towers
from ecif.towers.loading import load

NAMES = ("cifar10n", "demo", "flickr8k_swap", "flickr8k_human_dev")
RUNS = (2, 4, 8)
FLICKR_EPOCHS = 12


@dataclass(frozen=True, slots=True)
class Features:
    """Pairs under one model: inputs of its heads, (n, n_in), the heads' weights, (n_in, D), and the logit scale."""

    h_image: Tensor
    h_text: Tensor
    w_image: Tensor
    w_text: Tensor
    scale: float

    def embed(self) -> tuple[Tensor, Tensor]:
        """Unit-norm u_ND, v_ND."""
        normalize = torch.nn.functional.normalize
        return normalize(self.h_image @ self.w_image, dim=1), normalize(self.h_text @ self.w_text, dim=1)

    def take(self, rows: Tensor) -> Features:
        """The pairs at `rows`."""
        return Features(self.h_image[rows], self.h_text[rows], self.w_image, self.w_text, self.scale)


@dataclass(frozen=True, slots=True)
class Model:
    """The corpus and its validation pairs under one model."""

    corpus: Features
    validation: Features


@dataclass(frozen=True, slots=True)
class Set:
    """A corpus of N pairs with known mistakes.

    Attributes:
        uids, captions: of the corpus. wrong: bool (N,). kinds: of mistake, "" for right pairs. judged: bool (N,), false
            where the truth is undecided; such pairs are in the batches and not in the measures.
        report: bool (N,): the half to report on. model: that is scored with. runs: of fewer epochs. note: what a reader
            of the numbers has to know.
    """

    name: str
    uids: tuple[str, ...]
    captions: tuple[str, ...]
    validation_captions: tuple[str, ...]
    wrong: np.ndarray
    kinds: np.ndarray
    judged: np.ndarray
    report: np.ndarray
    model: Model
    runs: tuple[Model, ...]
    note: str

    def numbers(self) -> tuple[Tensor, Tensor]:
        """Captions as numbers, equal for equal ones: of the corpus and of the validation pairs."""
        known: dict[str, int] = {}
        both = [
            [known.setdefault(text, len(known)) for text in texts]
            for texts in (self.captions, self.validation_captions)
        ]
        return torch.tensor(both[0]), torch.tensor(both[1])


@dataclass(frozen=True, slots=True)
class _Material:
    """Files: the tars of corpus and validation, the truth, a config, and weights by number of epochs."""

    corpus: tuple[Path, ...]
    validation: Path
    truth: pl.DataFrame
    config: Path
    weights: Path
    runs: tuple[Path, ...]
    note: str


def load_set(name: str, data: Path | None, work: Path) -> Set:
    """Prepare one of `NAMES`; what was made before in `work` is used again.

    Raises:
        ValueError: the set lies under `--data`, which was not given.
    """
    if name != "demo" and data is None:
        raise ValueError(f"{name} needs --data")
    root = work / name
    root.mkdir(parents=True, exist_ok=True)
    if data is None or name == "demo":
        made = _demo(root)
    elif name == "cifar10n":
        made = _cifar10n(root, data)
    else:
        made = _flickr(root, data, work, name)
    uids, captions, features = _features(made.config, made.weights, made.corpus, root)
    _, validation_captions, validation = _features(made.config, made.weights, (made.validation,), root)
    runs = []
    for weights in made.runs:
        one, other = (_features(made.config, weights, tars, root)[2] for tars in (made.corpus, (made.validation,)))
        runs.append(Model(one, other))
    truth = pl.DataFrame({"uid": uids}).join(made.truth, on="uid", how="left", maintain_order="left")
    judged = truth["misaligned"].is_not_null().to_numpy()
    wrong = truth["misaligned"].fill_null(False).to_numpy()
    kinds = np.where(wrong, truth["kind"].to_numpy(), "")
    report = np.array([hashlib.blake2b(uid.encode()).digest()[0] % 2 == 1 for uid in uids])
    model = Model(features, validation)
    return Set(
        name, uids, captions, validation_captions, wrong, kinds, judged, report, model, tuple(runs), made.note
    )  # fmt: skip


def _demo(root: Path) -> _Material:
    stamp = root / "corpus.json"
    if not stamp.exists():
        corpus.build(
            root, pairs=6_000, validation_pairs=VALIDATION_PAIRS, shards=SHARDS, wrong=float(WRONG), seed=0
        )  # fmt: skip
        stamp.write_text("{}\n", "utf-8")
    tars = tuple(sorted((root / "raw").glob("*.tar")))
    config = root / "model.json"
    weights = [_train(root, tars, config, epochs, BATCH, LEARNING_RATE) for epochs in (*RUNS, EPOCHS)]
    truth = pl.read_parquet(root / "truth.parquet").select("uid", "misaligned", "kind")
    assert set(truth.filter(~pl.col("misaligned"))["kind"]) == {CLEAN}
    note = f"model trained on the corpus for {EPOCHS} epochs"
    return _Material(tars, root / "validation" / "00000.tar", truth, config, weights[-1], tuple(weights[:-1]), note)


def _cifar10n(root: Path, data: Path) -> _Material:
    truth = pl.read_parquet(data / "truth" / "cifar10n_truth.parquet")
    tars = tuple(data / "cifar10n" / f"{n:06d}.tar" for n in range(4))
    right = truth.filter((pl.col("shard") == "000004") & ~pl.col("misaligned"))
    validation = _selected(root, [data / "cifar10n" / "000004.tar"], right)
    folder = data.parent / "models" / "cifar10-tiny"
    config = folder / "cifar10-tiny.json"
    runs = tuple(_train(root, tars, config, epochs, 256, 1e-3) for epochs in RUNS)
    note = "model given: 10 epochs on 50,000 noisy pairs, these among them; runs from random weights on these 4,000"
    truth = truth.select("uid", "misaligned", "kind")
    return _Material(tars, validation, truth, config, folder / "weights.safetensors", runs, note)


def _flickr(root: Path, data: Path, work: Path, name: str) -> _Material:
    swapped = pl.read_parquet(data / "truth" / "flickr8k_swap_truth.parquet").select(
        "uid", "key", "shard", "misaligned", "kind"
    )
    judged = pl.read_parquet(data / "truth" / "flickr8k_human_dev_truth.parquet").select(swapped.columns)
    trained = tuple(data / "flickr8k_swap" / f"{n:06d}.tar" for n in range(2))
    human = data / "flickr8k_human_dev" / "000000.tar"
    shared = work / "flickr8k_swap"
    shared.mkdir(parents=True, exist_ok=True)
    config = shared / "model.json"
    config.write_text(json.dumps(FLICKR_MODEL), "utf-8")
    weights = [_train(shared, trained, config, epochs, 128, 1e-3) for epochs in (*RUNS, FLICKR_EPOCHS)]
    note = f"weak model: {FLICKR_EPOCHS} epochs from random weights on the 2,000 pairs of flickr8k_swap"
    if name == "flickr8k_swap":
        validation = _selected(root, [human], judged.filter(pl.col("misaligned").not_().fill_null(False)))
        return _Material(trained, validation, swapped, config, weights[-1], tuple(weights[:-1]), note)
    validation = _selected(root, list(trained), swapped.filter(~pl.col("misaligned")))
    note += "; its validation pairs were trained on"
    return _Material((human,), validation, judged, config, weights[-1], tuple(weights[:-1]), note)


def _selected(root: Path, tars: list[Path], rows: pl.DataFrame) -> Path:
    target = root / "validation.tar"
    if not target.exists():
        part = target.with_suffix(".part")
        select(tars, set(rows.select("shard", "key").iter_rows()), part)
        part.rename(target)
    return target


def _train(root: Path, tars: Sequence[Path], config: Path, epochs: int, batch: int, lr: float) -> Path:
    weights = root / f"weights-{epochs}.safetensors"
    if not weights.exists():
        part = root / f"part-{epochs}.safetensors"
        training.train(tars, config, part, epochs=epochs, batch_size=batch, lr=lr, seed=0, augment=True)
        part.rename(weights)
    return weights


def _features(
    config: Path, weights: Path, tars: Sequence[Path], root: Path
) -> tuple[tuple[str, ...], tuple[str, ...], Features]:
    """uids, captions and features of all pairs of the tars, kept in files of `root`."""
    stem = f"{weights.stem}-{tars[0].parent.name}-{tars[0].stem}-{len(tars)}"
    tensors, texts = root / f"{stem}.features", root / f"{stem}.json"
    if not texts.exists():
        _extract(config, weights, tars, tensors, texts)
    found = load_file(tensors)
    uids, captions = json.loads(texts.read_text("utf-8"))
    scale = float(found.pop("scale"))
    return tuple(uids), tuple(captions), Features(**found, scale=scale)


def _extract(config: Path, weights: Path, tars: Sequence[Path], tensors: Path, texts: Path) -> None:
    towers = Towers(load(str(config), str(weights)), "heads", torch.device("cpu"))
    image_head, text_head = (tower.head for tower in towers.heads)
    images: list[Tensor] = []
    texts_h: list[Tensor] = []
    captions, uids = [], []
    pairs = _pairs(tars)
    while chunk := list(islice(pairs, 128)):
        pixels = torch.stack([towers.loaded.transform(decode_image(pair.image, Limits())) for pair in chunk])
        captions += [pair.caption for pair in chunk]
        uids += [pair.uid for pair in chunk]
        images += towers.image_stem(pixels)
        texts_h += towers.text_stem([pair.caption for pair in chunk])
    save_file(
        {
            "h_image": torch.cat(images), "h_text": torch.cat(texts_h), "scale": torch.tensor(towers.scale),
            "w_image": towers.parameters[image_head].contiguous(), "w_text": towers.parameters[text_head].contiguous(),
        },
        tensors,
    )  # fmt: skip
    texts.write_text(json.dumps([uids, captions]), "utf-8")


def _pairs(tars: Sequence[Path]) -> Iterator[Pair]:
    for tar in tars:
        for pair in read_pairs(str(tar), tar.stem, Storage(), "txt", Limits()):
            if isinstance(pair, Pair):
                yield pair
