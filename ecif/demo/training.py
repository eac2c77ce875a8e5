"""Train an open_clip model from a JSON config on a few tars, on the CPU, from scratch.

For corpora of thousands of pairs: all of them are decoded once and kept as float32 tensors (n x 3 x side^2 x 4
bytes; 6,000 pairs at 48 pixels take 166 MB), so that an epoch costs the model's arithmetic and nothing else.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import save_file
from torch import Tensor

from ecif.demo.steps import fit, small_vocabulary
from ecif.errors import InputError, ModelError
from ecif.progress import Progress, Silent
from ecif.shards.decode import Pair, Refused, Undecodable, decode_image
from ecif.shards.tar import Limits
from ecif.stages.reading import read_pairs
from ecif.storage import Storage


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a training run did.

    Attributes:
        losses: mean of open_clip's contrastive loss over the steps of each epoch.
        pairs: that were trained on. unusable: samples that were left out, by status.
        seconds: wall time, reading included. logit_scale: at the end, as a factor.
    """

    losses: tuple[float, ...]
    pairs: int
    unusable: dict[str, int]
    seconds: float
    logit_scale: float


@dataclass(frozen=True, slots=True)
class Data:
    """n pairs in memory.

    Attributes:
        images: behind the model's transform, (n, 3, side, side). tokens: of the captions, (n, context).
        uids, captions: of the pairs. unusable: samples that were left out, by status.
    """

    images: Tensor
    tokens: Tensor
    uids: tuple[str, ...]
    captions: tuple[str, ...]
    unusable: dict[str, int]

    def take(self, rows: Tensor) -> Data:
        """The pairs at `rows`."""
        uids, captions = (tuple(texts[row] for row in rows.tolist()) for texts in (self.uids, self.captions))
        return Data(self.images[rows], self.tokens[rows], uids, captions, self.unusable)


def train(
    tars: Sequence[Path | str],
    model: Path,
    weights: Path,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    caption: str = "txt",
    augment: bool = False,
    progress: Progress = Silent(),
) -> TrainingReport:
    """Train from random weights with AdamW, linear warm-up and cosine decay, and save the weights.

    The loss is open_clip's: the mean of the image-to-text and text-to-image cross-entropies of a batch. The logit
    scale is trained too and clamped at 100. Batches are drawn anew in each epoch; a last, smaller batch is left out
    of its epoch. The result is the same for the same seed, machine type, versions and number of threads.

    Args:
        tars: WebDataset shards. model: open_clip config. weights: `.safetensors` file to write.
        caption: `txt` or `json:FIELD`. augment: shift batches by up to 1/24 of the side and add weak noise.

    Raises:
        ModelError: the config cannot be built. InputError: a tar is bad, or fewer pairs than a batch can be used.
    """
    started = time.perf_counter()
    data = read(tars, model, caption)
    if len(data.images) < batch_size:
        problem = f"{len(data.images)} usable pairs are fewer than one batch of {batch_size}"
        raise InputError(problem, url=str(tars[0]) if tars else "no tars")
    report = train_on(
        data, model, weights, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, augment=augment, progress=progress
    )
    return replace(report, seconds=time.perf_counter() - started)


def read(tars: Sequence[Path | str], model: Path, caption: str = "txt") -> Data:
    """All usable pairs of some tars, decoded and tokenised as this model wants them.

    Raises:
        ModelError: the config cannot be built. InputError: a tar is bad.
    """
    storage, limits = Storage(), Limits()
    return decoded(
        (item for tar in tars for item in read_pairs(str(tar), Path(tar).stem, storage, caption, limits)), model
    )


def tokenizer(model: Path) -> Callable[[list[str]], Tensor]:
    """What turns captions into tokens for this model, (n, context).

    Raises:
        ModelError: the config cannot be built.
    """
    with _seeded(0):
        *_, tokenize = _fresh(model)
    return tokenize


def decoded(items: Iterable[Pair | Refused], model: Path, limits: Limits = Limits()) -> Data:
    """The usable ones of some samples in memory, in their order.

    Raises:
        ModelError: the config cannot be built.
    """
    with _seeded(0):
        _, transform, tokenize = _fresh(model)
    images: list[Tensor] = []
    captions: list[str] = []
    uids: list[str] = []
    unusable: Counter[str] = Counter()
    for item in items:
        if not isinstance(item, Pair):
            unusable[item.status] += 1
            continue
        try:
            images.append(transform(decode_image(item.image, limits)))
        except Undecodable as refusal:
            unusable[refusal.status] += 1
        else:
            captions.append(item.caption)
            uids.append(item.uid)
    if not images:
        return Data(torch.empty(0), torch.empty(0), (), (), dict(unusable))
    return Data(torch.stack(images), tokenize(captions), tuple(uids), tuple(captions), dict(unusable))


def train_on(
    data: Data,
    model: Path,
    weights: Path,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    augment: bool = False,
    progress: Progress = Silent(),
) -> TrainingReport:
    """`train` on pairs in memory, at least a batch of them."""
    started = time.perf_counter()
    steps = epochs * (len(data.images) // batch_size)
    network, losses = trained(
        data, model, steps=steps, batch_size=batch_size, lr=lr, seed=seed, augment=augment, progress=progress
    )
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, str(weights))
    scale = float(network.logit_scale.detach().exp())
    return TrainingReport(tuple(losses), len(data.images), data.unusable, time.perf_counter() - started, scale)


def trained(
    data: Data,
    model: Path,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    augment: bool = False,
    progress: Progress = Silent(),
) -> tuple[Any, list[float]]:
    """A network in eval mode after so many steps on pairs in memory, at least a batch of them; mean loss by epoch."""
    with _seeded(seed):
        network, *_ = _fresh(model)
        with small_vocabulary(network, data.tokens) as tokens:
            losses = fit(network, data.images, tokens, steps, batch_size, lr, augment, progress)
    return network, losses


def _fresh(model: Path) -> tuple[Any, Callable[[Any], Tensor], Callable[[list[str]], Tensor]]:
    try:
        config = json.loads(model.read_text("utf-8"))
        network = open_clip.CLIP(**config)
    except (OSError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise ModelError(f"--model: {model}: open_clip cannot build this config: {error}") from error
    transform = image_transform_v2(PreprocessCfg(size=network.visual.image_size), is_train=False)
    return network, transform, open_clip.SimpleTokenizer(context_length=network.context_length)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's global generator, seeded, and afterwards as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
