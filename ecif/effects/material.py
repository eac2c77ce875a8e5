"""The pairs of a study in memory: those to train on, and those to judge by, which must be others.

Everything is decoded once, at the size that the small model wants. The images of both sides are compared by their
bytes: a model that was trained on an image of the evaluation set would be judged by what it has learnt by heart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from ecif.demo.training import Data, decoded
from ecif.effects.judging import Classes, HeldOut
from ecif.effects.population import Population
from ecif.errors import InputError, UsageError
from ecif.inventory import Shard
from ecif.progress import Progress
from ecif.shards.decode import Pair, Refused
from ecif.shards.tar import Limits
from ecif.sources import Found
from ecif.stages.reading import read_pairs
from ecif.stages.spool import image_digest
from ecif.stages.validation import ClassPrompts
from ecif.storage import Storage

FEWEST = 20
"""Pairs to judge by: of fewer, one more right answer moves a share by over 5 %."""


def read_population(
    population: Population,
    shards: Mapping[str, Shard],
    storage: Storage,
    caption: str,
    limits: Limits,
    model: Path,
    progress: Progress,
) -> tuple[Data, set[bytes]]:
    """The pairs of a population in its order, and digests of their images.

    Raises:
        InputError: a shard is not what was scored. StorageError: it cannot be read.
    """
    digests: set[bytes] = set()
    places = population.pairs.select("shard", "index").group_by("shard", maintain_order=True).agg("index")
    wanted = {shard: set(index) for shard, index in places.iter_rows()}

    def pairs() -> Iterator[Pair | Refused]:
        for name, places in wanted.items():
            shard = shards[name]
            for item in read_pairs(shard.url, name, storage, caption, limits, shard.info):
                if item.index in places:
                    progress.advance()
                    if isinstance(item, Pair):
                        digests.add(image_digest(item.image))
                    yield item

    progress.stage("read", len(population), "pairs")
    try:
        data = decoded(pairs(), model, limits)
    finally:
        progress.end()
    if list(data.uids) != population.pairs["uid"].to_list():
        what = ", ".join(f"{count:,} {status}" for status, count in data.unusable.items()) or "others"
        raise InputError(
            f"the shards no longer hold the pairs that were scored ({what}); score them again into a new --out",
            url=shards[population.shards[0]].url,
        )
    return data, digests


def read_held_out(
    tars: Sequence[Found], storage: Storage, caption: str, limits: Limits, model: Path, prompts: ClassPrompts | None
) -> tuple[HeldOut, set[bytes]]:
    """The pairs to judge by, and digests of their images.

    Raises:
        UsageError: too few can be used, or no pair has one of the classes. InputError: a tar is bad.
    """
    digests: set[bytes] = set()

    def pairs() -> Iterator[Pair | Refused]:
        for number, found in enumerate(tars):
            for item in read_pairs(found.url, str(number), storage, caption, limits):
                if isinstance(item, Pair):
                    digests.add(image_digest(item.image))
                yield item

    data = decoded(pairs(), model, limits)
    if len(data.uids) < FEWEST:
        raise UsageError(f"--evaluation: {len(data.uids)} pairs can be used; {FEWEST} are needed to judge a model by")
    return HeldOut(data, None if prompts is None else _classes(data, tars, storage, limits, model, prompts)), digests


def _classes(
    data: Data, tars: Sequence[Found], storage: Storage, limits: Limits, model: Path, prompts: ClassPrompts
) -> Classes:
    """The class of every pair, from a second pass that decodes no image, and the prompts as tokens."""
    from ecif.demo.training import tokenizer

    label = {}
    for number, found in enumerate(tars):
        for item in read_pairs(found.url, str(number), storage, f"json:{prompts.label}", limits):
            if isinstance(item, Pair):
                label[item.uid] = item.caption
    names = {name: number for number, name in enumerate(prompts.classes)}
    right = [names.get(label.get(uid, ""), -1) for uid in data.uids]
    if all(number < 0 for number in right):
        raise UsageError(
            f"--prompts: no pair of the evaluation set has one of the classes in its field {prompts.label}"
        )
    tokenize = tokenizer(model)
    return Classes(tuple(tokenize(texts) for texts in prompts.classes.values()), torch.tensor(right))


def refuse_overlap(trained_on: set[bytes], held_out: set[bytes]) -> None:
    """Refuse to judge a model by images that it was trained on.

    Raises:
        UsageError: there are any.
    """
    if both := len(trained_on & held_out):
        raise UsageError(
            f"--evaluation: {both:,} of {len(held_out):,} images are in the corpus, too; a model would be judged by "
            "what it was trained on. Take pairs that were kept out of the corpus"
        )
