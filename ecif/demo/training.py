"""Train an open_clip model from a JSON config on a few tars, on the CPU, from scratch.

For corpora of thousands of pairs: all of them are decoded once and kept as float32 tensors (n x 3 x side^2 x 4
bytes; 6,000 pairs at 48 pixels take 166 MB), so that an epoch costs the model's arithmetic and nothing else. Only
the rows of the token table that occur take part; the others stay as they were drawn and cost no optimiser step.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import save_file
from torch import Tensor, nn

from ecif.errors import InputError, ModelError
from ecif.progress import Progress, Silent
from ecif.shards.decode import Pair, Undecodable, decode_image
from ecif.shards.tar import Limits
from ecif.stages.reading import read_pairs
from ecif.storage import Storage

LARGEST_SCALE = 100.0  # CLIP's bound on 1 / temperature
WARM_UP = 0.1  # of all steps
WEIGHT_DECAY = 0.1
GRADIENT_NORM = 1.0
NOISE = 0.05  # standard deviation of augmented pixels, in units of the normalised image


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
    with _seeded(0):
        _, transform, tokenize = _fresh(model)
    return _load(tars, transform, tokenize, caption)


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
    with _seeded(seed):
        network, *_ = _fresh(model)
        with _small_vocabulary(network, data.tokens) as tokens:
            losses = _fit(network, data.images, tokens, epochs, batch_size, lr, augment, progress)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, str(weights))
    scale = float(network.logit_scale.detach().exp())
    return TrainingReport(tuple(losses), len(data.images), data.unusable, time.perf_counter() - started, scale)


def _fresh(model: Path) -> tuple[Any, Callable[[Any], Tensor], Callable[[list[str]], Tensor]]:
    try:
        config = json.loads(model.read_text("utf-8"))
        network = open_clip.CLIP(**config)
    except (OSError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise ModelError(f"--model: {model}: open_clip cannot build this config: {error}") from error
    transform = image_transform_v2(PreprocessCfg(size=network.visual.image_size), is_train=False)
    return network, transform, open_clip.SimpleTokenizer(context_length=network.context_length)


def _load(
    tars: Sequence[Path | str],
    transform: Callable[[Any], Tensor],
    tokenize: Callable[[list[str]], Tensor],
    caption: str,
) -> Data:
    storage, limits = Storage(), Limits()
    images: list[Tensor] = []
    captions: list[str] = []
    uids: list[str] = []
    unusable: Counter[str] = Counter()
    for tar in tars:
        for item in read_pairs(str(tar), Path(tar).stem, storage, caption, limits):
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


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's global generator, seeded, and afterwards as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def _small_vocabulary(network: Any, tokens: Tensor) -> Iterator[Tensor]:
    """Let the network work on the tokens that occur, renumbered in their order; put the rows back afterwards.

    The end token has the largest number before and after, which is what pooling by argmax looks for.
    """
    table: nn.Embedding = network.token_embedding
    used, numbers = torch.unique(tokens, return_inverse=True)
    small = nn.Embedding(len(used), table.embedding_dim)
    with torch.no_grad():
        small.weight.copy_(table.weight[used])
    network.token_embedding = small
    yield numbers
    network.token_embedding = table
    with torch.no_grad():
        table.weight[used] = small.weight


def _fit(
    network: Any,
    images: Tensor,
    tokens: Tensor,
    epochs: int,
    batch_size: int,
    lr: float,
    augment: bool,
    progress: Progress,
) -> list[float]:
    network.train()
    optimiser = _optimiser(network, lr)
    per_epoch = len(images) // batch_size
    steps = epochs * per_epoch
    warm = max(1, round(WARM_UP * steps))
    same = torch.arange(batch_size)
    losses = []
    progress.stage("train", epochs * per_epoch * batch_size, "pairs")
    for epoch in range(epochs):
        order = torch.randperm(len(images))
        total = 0.0
        for number in range(per_epoch):
            step = epoch * per_epoch + number
            for group in optimiser.param_groups:
                group["lr"] = lr * _schedule(step, warm, steps)
            rows = order[number * batch_size : (number + 1) * batch_size]
            batch = _shift(images[rows]) if augment else images[rows]
            u_BD = F.normalize(network.encode_image(batch), dim=-1)
            v_BD = F.normalize(network.encode_text(tokens[rows]), dim=-1)
            s_BB = network.logit_scale.exp() * u_BD @ v_BD.T
            loss = (F.cross_entropy(s_BB, same) + F.cross_entropy(s_BB.T, same)) / 2
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
            optimiser.step()
            with torch.no_grad():
                network.logit_scale.clamp_(0, math.log(LARGEST_SCALE))
            total += float(loss.detach())
            progress.advance(batch_size)
        losses.append(total / per_epoch)
    progress.end()
    network.eval()
    return losses


def _optimiser(network: nn.Module, lr: float) -> torch.optim.AdamW:
    """AdamW; gains, biases and the logit scale do not decay."""
    matrices = [p for p in network.parameters() if p.ndim >= 2]
    others = [p for p in network.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)


def _schedule(step: int, warm: int, steps: int) -> float:
    """Factor on the learning rate: linear from 1/warm to 1, then half a cosine down to 0."""
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _shift(batch: Tensor) -> Tensor:
    """The batch moved by up to 1/24 of its side, edges repeated, with weak noise; (B, 3, H, W)."""
    most = max(1, round(batch.shape[-1] / 24))
    right, down = (int(torch.randint(0, 2 * most + 1, ())) for _ in range(2))
    padded = F.pad(batch, (most,) * 4, mode="replicate")
    moved = padded[:, :, down : down + batch.shape[2], right : right + batch.shape[3]]
    return moved + NOISE * torch.randn_like(moved)
