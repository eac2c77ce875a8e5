"""One loaded model on one device, and the samples' way onto it: decode, preprocess, tokenize, micro-batch.

All of that happens in threads, ahead of the device by a bounded number of samples (`feed`). The micro-batch is the
device's: it becomes smaller when memory runs out, for all that this engine does afterwards.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice

import torch
from torch import Tensor

from ecif.cores import cores
from ecif.errors import UsageError
from ecif.settings import ScoreSettings
from ecif.shards.decode import Pair, Refused
from ecif.shards.tar import Limits
from ecif.stages.feed import Feed
from ecif.stages.memory import MicroBatch, bounded
from ecif.stages.preparing import Preparation, Ready
from ecif.stages.processes import Processes, processes_for
from ecif.stages.program import Program
from ecif.stages.sizing import fitting
from ecif.towers import Derivatives, Towers
from ecif.towers.difference import Differences
from ecif.towers.loading import load

_LOG = logging.getLogger(__name__)
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}
# Samples per decoding task: enough to hide the pool's overhead, few enough to spread over the threads.
TASK = 16


@dataclass(frozen=True, slots=True)
class Chunk:
    """A micro-batch: n pairs, and what the towers take of them.

    Attributes:
        images: bytes of the preprocessed pictures, (n, H, W, 3) uint8; or (n, 3, H, W) float32 where the model's
            transform cannot be cut (`towers.pixels`). tokens: of the captions, (n, L) int64.
        digests: of the encoded images.
    """

    pairs: list[Pair]
    images: Tensor
    tokens: Tensor
    digests: list[bytes]


Begun = Feed[list[Ready | Refused]] | closing[Generator[list[Ready | Refused]]]
"""Samples on their way (`Engine.begin`)."""


@dataclass(frozen=True, slots=True)
class Engine:
    """The towers with all that feeds them.

    Attributes:
        workers: threads that decode; 0: everything in the caller's. processes: that decode, in place of these threads.
        draft: decode JPEGs no larger than the model's input needs (`shards.decode`).
        difference: take derivatives along directions by differences.
        program: started before the weights were read; the processes are copies of it.
    """

    towers: Towers
    limits: Limits
    micro: MicroBatch
    workers: int
    draft: bool = False
    difference: bool = False
    processes: int = 0
    program: Program | None = field(default=None, repr=False, compare=False)
    # Tokenizers of the hub are not made for several threads, and open_clip's own holds the interpreter anyway.
    _tokenizing: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    # Begun when they are first needed, and ended with the engine.
    _processes: Processes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        preparation = self._preparation(self.towers.loaded.tokenize)
        object.__setattr__(self, "_processes", Processes(preparation, self.processes, TASK, self.program))

    def derivatives(self) -> Derivatives:
        """What gives the derivatives for the samples of one shard."""
        return Differences(self.towers) if self.difference else self.towers

    @property
    def micro_batch(self) -> int:
        """Samples that go through the towers at once, as far as is known now."""
        return self.micro.size

    def begin(self, samples: Iterable[Pair | Refused]) -> Begun:
        """Begin to read, decode and tokenize in threads, ahead of the caller by a bounded number of samples.

        Returns:
            what `chunks` takes, or whoever gives it up: to be entered or closed once.
        """
        tasks, at_once = _tasks(samples), self.processes or self.workers
        if at_once == 0:
            return closing(self.prepare(task) for task in tasks)
        ahead = at_once + 2 * -(-self.micro_batch // TASK)
        return Feed(self.prepare, tasks, at_once, ahead)

    def chunks(self, samples: Iterable[Pair | Refused] | Begun, refused: list[Refused]) -> Iterator[Chunk]:
        """Micro-batches of what can be decoded, in order; the rest is appended to `refused`.

        Args:
            samples: or what `begin` made of them.
        """
        with samples if isinstance(samples, Feed | closing) else self.begin(samples) as done:
            rows: list[Ready] = []
            for item in chain.from_iterable(done):
                if isinstance(item, Refused):
                    refused.append(item)
                    continue
                rows.append(item)
                if len(rows) >= self.micro_batch:
                    chunk, rows = self._chunk(rows), []  # which frees what the rows lie in
                    yield chunk
            if rows:
                yield self._chunk(rows)

    def prepare(self, samples: Sequence[Pair | Refused]) -> list[Ready | Refused]:
        """Decode and tokenize up to `TASK` samples, in their order, here or in another process."""
        done_by = self._processes if self.processes else self._preparation(self._tokenize)
        return done_by.prepare(samples)

    def decode(self, sample: Pair) -> Tensor | Refused:
        """The picture of a pair as the model's transform makes it (`Towers.take`), decoded here."""
        return self._preparation(self._tokenize).decode(sample)

    def _preparation(self, tokenize: Callable[[list[str]], Tensor]) -> Preparation:
        draft = max(self.towers.size) if self.draft else None
        return Preparation(self.towers.take, tokenize, self.limits, draft)

    def _tokenize(self, captions: list[str]) -> Tensor:
        with self._tokenizing:
            return self.towers.loaded.tokenize(captions)

    def _chunk(self, rows: list[Ready]) -> Chunk:
        return Chunk(
            [row.pair for row in rows],
            self._stack([row.image for row in rows]),
            self._stack([row.tokens for row in rows]),
            [row.digest for row in rows],
        )

    def _stack(self, rows: list[Tensor]) -> Tensor:
        """Rows as one tensor; for a GPU in pinned memory, from which copies run beside the computation."""
        if self.towers.device.type != "cuda":
            return torch.stack(rows)
        pinned = torch.empty((len(rows), *rows[0].shape), dtype=rows[0].dtype, pin_memory=True)
        return torch.stack(rows, out=pinned)


def _tasks(samples: Iterable[Pair | Refused]) -> Iterator[list[Pair | Refused]]:
    """Samples in lists of `TASK`. Closing it closes the samples, and with them their tar."""
    source = iter(samples)
    try:
        while task := list(islice(source, TASK)):
            yield task
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()


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
    if settings.precision == "tf32" and device.type != "cuda":
        raise UsageError(f"--precision tf32: that is arithmetic of NVIDIA GPUs, and the device is {device}; use fp32")
    processes = processes_for(settings, device)
    program = Program() if processes else None  # which imports for as long as reading the weights takes
    loaded = load(settings.model, settings.pretrained, _DTYPES[settings.precision])
    stem_dtype, tf32 = torch.bfloat16 if settings.precision == "bf16" else None, settings.precision == "tf32"
    with bounded(device, "the weights of the model", "another process may be using the device; see --device"):
        towers = Towers(
            loaded, settings.trainable, device, biases=settings.biases == "include", stem_dtype=stem_dtype, tf32=tf32
        )
    if settings.compile == "on":
        towers.compile()
    size = fitting(towers, settings, say) if settings.micro_batch is None else settings.micro_batch
    micro = MicroBatch(size, device, say)
    workers = cores() if settings.workers is None else settings.workers
    # Behind the heads a derivative costs nothing.
    difference = settings.derivative == "difference" and settings.trainable != "heads"
    draft = settings.decode == "draft"
    return Engine(towers, limits or settings.limits(), micro, workers, draft, difference, processes, program)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device: {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device
