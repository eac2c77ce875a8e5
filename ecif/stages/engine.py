"""One loaded model on one device, and the samples' way onto it: decode, preprocess, micro-batch.

The micro-batch is the device's: it becomes smaller when memory runs out, for all that this engine does afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from ecif.errors import UsageError
from ecif.settings import ScoreSettings
from ecif.shards.decode import Pair, Refused, Undecodable, decode_image
from ecif.shards.tar import Limits
from ecif.stages.memory import MicroBatch, bounded
from ecif.towers import Towers
from ecif.towers.loading import load

_LOG = logging.getLogger(__name__)
_DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}
# Samples per decoding task: enough to hide the pool's overhead, few enough to spread over the threads.
_TASK = 16


@dataclass(frozen=True, slots=True)
class Chunk:
    """A micro-batch: pairs and their preprocessed images, (n, 3, H, W)."""

    pairs: list[Pair]
    images: Tensor


@dataclass(frozen=True, slots=True)
class Engine:
    """The towers with all that feeds them."""

    towers: Towers
    limits: Limits
    micro: MicroBatch
    workers: int

    @property
    def micro_batch(self) -> int:
        """Samples that go through the towers at once, as far as is known now."""
        return self.micro.size

    def chunks(self, samples: Iterable[Pair | Refused], refused: list[Refused]) -> Iterator[Chunk]:
        """Micro-batches of what can be decoded, in order; the rest is appended to `refused`.

        Decoding runs in threads, ahead of the caller by a bounded number of samples.
        """
        pairs: list[Pair] = []
        images: list[Tensor] = []
        for item in self._decoded(samples):
            if isinstance(item, Refused):
                refused.append(item)
                continue
            pairs.append(item[0])
            images.append(item[1])
            if len(pairs) >= self.micro_batch:
                yield Chunk(pairs, torch.stack(images))
                pairs, images = [], []
        if pairs:
            yield Chunk(pairs, torch.stack(images))

    def _decoded(self, samples: Iterable[Pair | Refused]) -> Iterator[tuple[Pair, Tensor] | Refused]:
        if self.workers == 0:
            for sample in samples:
                yield self._decode(sample)
            return
        source = iter(samples)
        ahead = self.workers + 2 * -(-self.micro_batch // _TASK)
        with ThreadPoolExecutor(self.workers, "decode") as pool:
            pending: list[Future[list[tuple[Pair, Tensor] | Refused]]] = []
            try:
                while task := list(islice(source, _TASK)):
                    pending.append(pool.submit(lambda items: [self._decode(item) for item in items], task))
                    if len(pending) > ahead:
                        yield from pending.pop(0).result()
                while pending:
                    yield from pending.pop(0).result()
            finally:
                for future in pending:
                    future.cancel()

    def _decode(self, sample: Pair | Refused) -> tuple[Pair, Tensor] | Refused:
        if isinstance(sample, Refused):
            return sample
        try:
            image = decode_image(sample.image, self.limits)
            return sample, self.towers.loaded.transform(image)
        except Undecodable as error:
            return Refused(sample.uid, sample.key, sample.index, error.status, error.detail)


def load_engine(
    settings: ScoreSettings, limits: Limits | None = None, say: Callable[[str], None] = _LOG.warning
) -> Engine:
    """Load the model of the settings onto their device.

    Args:
        say: told when the micro-batch does not fit and is halved.

    Raises:
        ModelError: see `towers`. UsageError: the device does not exist. DoesNotFitError: the weights do not fit.
    """
    device = _device(settings.device)
    loaded = load(settings.model, settings.pretrained, _DTYPES[settings.precision])
    stem_dtype = torch.bfloat16 if settings.precision == "bf16" else None
    with bounded(device, "the weights of the model", "another process may be using the device; see --device"):
        towers = Towers(loaded, settings.trainable, device, biases=settings.biases == "include", stem_dtype=stem_dtype)
    micro = MicroBatch(settings.micro_batch, device, say)
    return Engine(towers, limits or settings.limits(), micro, settings.workers)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device: {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device
