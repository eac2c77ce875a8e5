"""What is done to samples before the towers: decode, resize, tokenise, digest.

One object holds all that it takes, and nothing of the model's weights, so that it can be sent to another process
(`stages.processes`) and gives the same there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ecif.shards.decode import Pair, Refused, Undecodable, decode_image
from ecif.shards.limits import Limits
from ecif.stages.spool import image_digest


@dataclass(frozen=True, slots=True)
class Ready:
    """A pair, decoded and tokenized.

    Attributes:
        image: as `Towers.take` gives it. tokens: of the caption, (L,) int64. digest: of the encoded image.
    """

    pair: Pair
    image: Tensor
    tokens: Tensor
    digest: bytes


@dataclass(frozen=True, slots=True)
class Preparation:
    """How samples become rows of a micro-batch.

    Attributes:
        take: picture -> what the image tower takes of it (`Towers.take`).
        tokenize: n captions -> (n, L) int64.
        draft: decode JPEGs no smaller than this many pixels; None: whole (`shards.decode`).
    """

    take: Callable[[Any], Tensor]
    tokenize: Callable[[list[str]], Tensor]
    limits: Limits
    draft: int | None = None

    def prepare(self, samples: Sequence[Pair | Refused]) -> list[Ready | Refused]:
        """Decode and tokenize some samples, in their order."""
        images = [sample if isinstance(sample, Refused) else self.decode(sample) for sample in samples]
        pairs = [
            (sample, image)
            for sample, image in zip(samples, images, strict=True)
            if isinstance(sample, Pair) and isinstance(image, Tensor)
        ]
        tokens = self.tokenize([pair.caption for pair, _ in pairs]) if pairs else torch.empty(0)
        ready = (
            Ready(pair, image, row, image_digest(pair.image)) for (pair, image), row in zip(pairs, tokens, strict=True)
        )
        return [image if isinstance(image, Refused) else next(ready) for image in images]

    def decode(self, sample: Pair) -> Tensor | Refused:
        """The picture of a pair as the model's transform makes it."""
        try:
            image = decode_image(sample.image, self.limits, self.draft)
        except Undecodable as error:
            return Refused(sample.uid, sample.key, sample.index, error.status, error.detail)
        try:
            return self.take(image)
        except ValueError as error:
            # A picture of one line may come down to nothing when it is resized; that is no reason to lose its shard.
            detail = f"the model's transform refuses {image.width} x {image.height} pixels: {error}"
            return Refused(sample.uid, sample.key, sample.index, "undecodable_image", detail)
