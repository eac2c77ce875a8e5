"""A contrastive batch on the device: decoded, behind the frozen stems, in micro-batches.

The loss couples all pairs of a batch, but a tower acts on each pair alone. So a batch of any size goes through
the towers in micro-batches twice: once for U, V, from which the loss gives cotangents, and once more to pull
these back. Only the stems' outputs and U, V of one batch are held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ecif.curvature import Cotangents
from ecif.logra import Projection
from ecif.settings import MethodSettings
from ecif.stages.engine import Engine
from ecif.stages.spool import Spool
from ecif.towers import SCALE, State


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch behind the stems.

    Attributes:
        states: (image state, text state) of each micro-batch. rows: spool rows of its pairs, in order.
        captions: of its pairs, in order.
    """

    states: list[tuple[State, State]]
    rows: list[int]
    captions: list[str]

    def competing(self, settings: MethodSettings) -> Tensor | None:
        """Numbers of the captions where equal ones are not to compete, else None."""
        return numbers(self.captions) if settings.equal_captions == "mask" else None

    @property
    def size(self) -> int:
        """Pairs in the batch."""
        return len(self.rows)


def numbers(captions: Sequence[str]) -> Tensor:
    """An integer for each caption, equal for equal captions, (B,)."""
    seen: dict[str, int] = {}
    return torch.tensor([seen.setdefault(caption, len(seen)) for caption in captions], dtype=torch.int64)


def load_batch(engine: Engine, samples: Spool, rows: Sequence[int]) -> Batch:
    """Decode the pairs at `rows` and run the stems; a pair that cannot be decoded leaves the batch."""
    states, kept, captions = [], [], []
    for chunk in engine.chunks(samples.pairs(rows), samples.refused):
        texts = [pair.caption for pair in chunk.pairs]
        states.append((engine.towers.image_stem(chunk.images), engine.towers.text_stem(texts)))
        kept += [pair.index for pair in chunk.pairs]
        captions += texts
    return Batch(states, kept, captions)


def embed(engine: Engine, batch: Batch) -> tuple[Tensor, Tensor]:
    """U, V of a batch, (B, D) each, without a graph."""
    with torch.no_grad():
        parts = [engine.towers.embed(engine.towers.parameters, image, text) for image, text in batch.states]
    return torch.cat([u for u, _ in parts]), torch.cat([v for _, v in parts])


def pull_back(engine: Engine, batch: Batch, cotangents: Sequence[Cotangents]) -> list[dict[str, Tensor]]:
    """Gradients, by parameter name, of functions of the batch's logits; one for each of the cotangents."""
    totals: list[dict[str, Tensor]] = []
    for gradients in _by_micro_batch(engine, batch, cotangents):
        totals = [add(*both) for both in zip(totals, gradients, strict=True)] if totals else gradients
    return totals


def pull_back_projected(
    engine: Engine, batch: Batch, cotangents: Sequence[Cotangents], projection: Projection
) -> Tensor:
    """The same gradients, projected, (len(cotangents), K); full gradients live as long as a micro-batch."""
    rows = torch.zeros(len(cotangents), projection.size, dtype=engine.towers.dtype, device=engine.towers.device)
    for gradients in _by_micro_batch(engine, batch, cotangents):
        rows += torch.stack([projection.project(gradient) for gradient in gradients])
    return rows


def add(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sum of two gradients by parameter name."""
    return {name: part + b[name] for name, part in a.items()}


def _by_micro_batch(
    engine: Engine, batch: Batch, cotangents: Sequence[Cotangents]
) -> Iterator[list[dict[str, Tensor]]]:
    start = 0
    for image, text in batch.states:
        stop = start + image[0].shape[0]
        gradients = engine.towers.pull_back(image, text, [(c.u_BD[start:stop], c.v_BD[start:stop]) for c in cotangents])
        if start == 0:
            # The logit scale acts on the whole batch, not on a sample: it is counted once.
            for gradient, c in zip(gradients, cotangents, strict=True):
                if SCALE in gradient:
                    gradient[SCALE] = gradient[SCALE] + c.log_scale.to(gradient[SCALE])
        yield gradients
        start = stop
