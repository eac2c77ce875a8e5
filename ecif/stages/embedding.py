"""A shard through the towers, once: embeddings of all its samples and their derivatives along R directions.

What stays in memory of a sample is its 2 D (1 + R) numbers. Batches of the loss are formed from these rows, as many
times over as there are segmentations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ecif.influence import Embedded
from ecif.inventory import Shard
from ecif.progress import Progress, Silent
from ecif.run import Run
from ecif.shards.decode import Pair, Refused
from ecif.stages.engine import Begun, Chunk, Engine
from ecif.stages.upcoming import Upcoming
from ecif.towers import Parameters, State

# of a micro-batch: embeddings with their derivatives, further embeddings, inputs of the last projections
_Part = tuple[tuple[Tensor, Tensor, Tensor, Tensor], list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor] | None]


@dataclass(frozen=True, slots=True)
class Embedder:
    """Further embeddings of the pairs of a micro-batch, (n, D) each.

    Attributes:
        images: of images and their state. captions: of captions and theirs.
    """

    images: Callable[[Tensor, State], Tensor]
    captions: Callable[[list[str], State], Tensor]


@dataclass(frozen=True, slots=True)
class EmbeddedShard:
    """What the towers made of a shard.

    Attributes:
        pairs: in the order of the tar, without image and caption. refused: the samples that are no such pair.
        embedded: rows of `pairs`; None when there are none.
        digests: of the images, one for each pair: overlap with a validation set is judged by them.
        captions: a number for each pair, equal for equal captions. texts: the distinct captions, by number.
        others: of each further embedder, (N, D) each. heads: inputs of the two last projections, if they were to be
            kept.
    """

    pairs: list[Pair]
    refused: list[Refused]
    embedded: Embedded | None
    digests: list[bytes]
    captions: list[int]
    texts: list[str]
    others: list[tuple[Tensor, Tensor]]
    heads: tuple[Tensor, Tensor] | None


def embed_shard(
    run: Run,
    engine: Engine,
    shard: Shard,
    directions: Sequence[Parameters],
    progress: Progress = Silent(),
    *,
    embedders: Sequence[Embedder] = (),
    keep_heads: bool = False,
    upcoming: Upcoming | None = None,
) -> EmbeddedShard:
    """Read, decode and embed a shard; `directions` (at least one) share the forward pass.

    Args:
        embedders: give further embeddings. keep_heads: keep the inputs of the last projections, where the towers are
            cut before these. upcoming: has the samples, and begins those of the next shard at the end.

    Raises:
        BadTarError: the shard is no tar or is cut short. StorageError: it cannot be read.
    """
    samples = (upcoming or Upcoming(run, engine, [shard])).take(shard)
    mask = run.settings.equal_captions == "mask"
    found = embed(engine, samples, directions, progress, mask=mask, embedders=embedders, keep_heads=keep_heads)
    if upcoming is not None:
        upcoming.through(shard)
    return found


def embed(
    engine: Engine,
    samples: Iterable[Pair | Refused] | Begun,
    directions: Sequence[Parameters],
    progress: Progress = Silent(),
    *,
    mask: bool,
    embedders: Sequence[Embedder] = (),
    keep_heads: bool = False,
) -> EmbeddedShard:
    """The same with the samples of a shard.

    Args:
        mask: whether equal captions are to be out of each other's softmax.
    """
    pairs: list[Pair] = []
    refused: list[Refused] = []
    digests: list[bytes] = []
    numbers: dict[str, int] = {}
    captions: list[int] = []
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    others: list[list[tuple[Tensor, Tensor]]] = [[] for _ in embedders]
    heads: list[tuple[Tensor, Tensor]] = []
    keep_heads = keep_heads and engine.towers.image.head_input and engine.towers.text.head_input
    reported = 0
    derivatives = engine.derivatives()
    for chunk in engine.chunks(samples, refused):
        digests += chunk.digests
        texts = [pair.caption for pair in chunk.pairs]
        captions += [numbers.setdefault(caption, len(numbers)) for caption in texts]

        def through(rows: slice, chunk: Chunk = chunk, texts: list[str] = texts) -> _Part:
            images = chunk.images
            image, text = engine.towers.image_stem(images[rows]), engine.towers.text_stem(chunk.tokens[rows])
            along = derivatives.push_forward(directions, image, text)
            with torch.no_grad():
                further = [
                    (embedder.images(images[rows], image), embedder.captions(texts[rows], text))
                    for embedder in embedders
                ]
            return along, further, (image[0], text[0]) if keep_heads else None

        for _, (along, further, head) in engine.micro.parts(len(texts), through):
            parts.append(along)
            for found, one in zip(others, further, strict=True):
                found.append(one)
            heads += [] if head is None else [head]
        pairs += [Pair(pair.uid, pair.key, pair.index, b"", "") for pair in chunk.pairs]
        progress.advance(len(pairs) + len(refused) - reported)
        reported = len(pairs) + len(refused)
    progress.advance(len(pairs) + len(refused) - reported)
    if not pairs:
        return EmbeddedShard(pairs, refused, None, digests, captions, list(numbers), [], None)
    u_parts, v_parts, du_parts, dv_parts = zip(*parts, strict=True)
    embedded = Embedded(
        torch.cat(u_parts),
        torch.cat(v_parts),
        torch.cat(du_parts, 1),
        torch.cat(dv_parts, 1),
        engine.towers.scale,
        tuple(engine.towers.dscale(direction) for direction in directions),
        torch.tensor(captions, device=engine.towers.device) if mask else None,
    )
    joined = [_join(found) for found in others]
    head_inputs = _join(heads) if keep_heads else None
    return EmbeddedShard(pairs, refused, embedded, digests, captions, list(numbers), joined, head_inputs)


@dataclass(frozen=True, slots=True)
class EmbeddedCaptions:
    """What the text tower made of C captions: embeddings v_CD, derivatives dv_RCD, and (C, D) of each embedder."""

    v_CD: Tensor
    dv_RCD: Tensor
    others: list[Tensor]


def embed_captions(
    engine: Engine, captions: list[str], directions: Sequence[Parameters], embedders: Sequence[Embedder]
) -> EmbeddedCaptions:
    """Embed captions without images, at least one, as `embed_shard` does it."""

    derivatives = engine.derivatives()

    def through(rows: slice) -> tuple[Tensor, Tensor, list[Tensor]]:
        text = engine.towers.text_stem(captions[rows])
        v_CD, dv_RCD = derivatives.push_forward_texts(directions, text)
        with torch.no_grad():
            return v_CD, dv_RCD, [embedder.captions(captions[rows], text) for embedder in embedders]

    parts = [part for _, part in engine.micro.parts(len(captions), through)]
    v_parts, dv_parts, others = zip(*parts, strict=True)
    further = [torch.cat(found) for found in zip(*others, strict=True)]
    return EmbeddedCaptions(torch.cat(v_parts), torch.cat(dv_parts, 1), further)


def _join(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([first for first, _ in parts]), torch.cat([second for _, second in parts])
