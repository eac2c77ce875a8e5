"""A contrastive batch on the device: decoded, behind the frozen stems, in micro-batches.

The loss couples all pairs of a batch, but a tower acts on each pair alone. So a batch of any size goes through
the towers in micro-batches twice: once for U, V, from which the loss gives cotangents, and once more to pull
these back. Only the stems' outputs and U, V of one batch are held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ecif.curvature import Cotangents
from ecif.gradients import States
from ecif.gradients.towers import Side
from ecif.logra import Projection
from ecif.settings import MethodSettings
from ecif.stages.engine import Chunk, Engine
from ecif.stages.spool import Spool
from ecif.towers import SCALE, State

T = TypeVar("T")


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
    states: list[tuple[State, State]] = []
    kept, captions = [], []
    for chunk in engine.chunks(samples.pairs(rows), samples.refused):

        def run(rows: slice, chunk: Chunk = chunk) -> tuple[State, State]:
            return engine.towers.image_stem(chunk.images[rows]), engine.towers.text_stem(chunk.tokens[rows])

        states += [both for _, both in engine.micro.parts(len(chunk.pairs), run)]
        kept += [pair.index for pair in chunk.pairs]
        captions += [pair.caption for pair in chunk.pairs]
    return Batch(states, kept, captions)


def image_states(engine: Engine, images: Tensor) -> list[State]:
    """Images, (n, 3, H, W), behind the stem, in micro-batches that fit."""
    return [state for _, state in engine.micro.parts(len(images), lambda rows: engine.towers.image_stem(images[rows]))]


def text_states(engine: Engine, captions: list[str]) -> list[State]:
    """Captions behind the stem, in micro-batches that fit."""
    return [
        state for _, state in engine.micro.parts(len(captions), lambda rows: engine.towers.text_stem(captions[rows]))
    ]


def in_parts(
    engine: Engine, states: Iterable[tuple[State, ...]], work: Callable[[tuple[State, ...], slice], T]
) -> Iterator[T]:
    """`work` on states of one or both towers, as many samples at once as fit.

    Args:
        work: is given the states, cut, and which of all samples they are.
    """
    first = 0
    for several in states:

        def run(rows: slice, several: tuple[State, ...] = several, first: int = first) -> T:
            return work(tuple(_cut(state, rows) for state in several), slice(first + rows.start, first + rows.stop))

        count = len(several[0][0])
        for _, found in engine.micro.parts(count, run):
            yield found
        first += count


def _cut(state: State, rows: slice) -> State:
    return tuple(part[rows] for part in state)  # views


def with_states(engine: Engine, states: States, compute: Callable[[States], T]) -> T:
    """`compute(states)`, with the states cut into micro-batches that fit.

    What is computed from the inputs of the last projections alone is bound by the contrastive batch: smaller
    micro-batches would not help there.
    """
    if engine.towers.image.head_input and engine.towers.text.head_input:
        return compute(states)

    def at(size: int) -> T:
        return compute(
            [
                (_cut(image, slice(start, start + size)), _cut(text, slice(start, start + size)))
                for image, text in states
                for start in range(0, len(image[0]), size)
            ]
        )

    return engine.micro.whole(max(len(image[0]) for image, _ in states), at)


def embed(engine: Engine, batch: Batch) -> tuple[Tensor, Tensor]:
    """U, V of a batch, (B, D) each, without a graph."""
    towers = engine.towers
    with torch.no_grad():
        parts = list(in_parts(engine, batch.states, lambda both, _: towers.embed(towers.parameters, *both)))
    return torch.cat([u for u, _ in parts]), torch.cat([v for _, v in parts])


def pull_back(engine: Engine, batch: Batch, cotangents: Sequence[Cotangents]) -> list[dict[str, Tensor]]:
    """Gradients, by parameter name, of functions of the batch's logits; one for each of the cotangents."""
    return _summed(_by_micro_batch(engine, batch, cotangents, lambda gradient: gradient))


def pull_back_projected(
    engine: Engine, batch: Batch, cotangents: Sequence[Cotangents], projection: Projection
) -> Tensor:
    """The same gradients, projected, (len(cotangents), K); one full gradient lives at a time."""
    rows = torch.zeros(len(cotangents), projection.size, dtype=engine.towers.dtype, device=engine.towers.device)
    for parts in _by_micro_batch(engine, batch, cotangents, projection.project):
        rows += torch.stack(parts)
    return rows


def pull_back_tower(
    engine: Engine, side: Side, states: Sequence[State], beside: State, cotangents: Sequence[Tensor]
) -> list[dict[str, Tensor]]:
    """Gradients, by parameter name, of what cotangents of one tower's embeddings, (n, D) each, weigh up.

    Args:
        beside: states of the other tower; its first sample is run along and sends nothing back.
    """
    still = _cut(beside, slice(1))
    zero = torch.zeros_like(cotangents[0][:1])

    def run(one: tuple[State, ...], some: slice) -> list[dict[str, Tensor]]:
        if side == "image":
            return engine.towers.pull_back(one[0], still, [(c[some], zero) for c in cotangents])
        return engine.towers.pull_back(still, one[0], [(zero, c[some]) for c in cotangents])

    return _summed(in_parts(engine, zip(states), run))


def add(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sum of two gradients by parameter name."""
    return {name: part + b[name] for name, part in a.items()}


def _summed(parts: Iterable[list[dict[str, Tensor]]]) -> list[dict[str, Tensor]]:
    totals: list[dict[str, Tensor]] = []
    for gradients in parts:
        totals = [add(*both) for both in zip(totals, gradients, strict=True)] if totals else gradients
    return totals


def _by_micro_batch(
    engine: Engine, batch: Batch, cotangents: Sequence[Cotangents], finish: Callable[[dict[str, Tensor]], T]
) -> Iterator[list[T]]:
    def run(both: tuple[State, ...], some: slice) -> list[T]:
        def whole(number: int, gradient: dict[str, Tensor]) -> T:
            # The logit scale acts on the whole batch, not on a sample: it is counted once.
            if some.start == 0 and SCALE in gradient:
                gradient[SCALE] = gradient[SCALE] + cotangents[number].log_scale.to(gradient[SCALE])
            return finish(gradient)

        image, text = both
        pairs = [(c.u_BD[some], c.v_BD[some]) for c in cotangents]
        return engine.towers.pull_back_each(image, text, pairs, whole)

    yield from in_parts(engine, batch.states, run)
