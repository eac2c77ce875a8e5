"""Cases: test pairs whose loss is traced back, that loss, its gradient, and what the model makes of the pair now.

The contrastive loss of a batch of one pair is 0, so a case needs competitors:

    candidates    cross-entropy of its caption over a list of captions
    validation    Pos / 2 of the pair among pairs of the validation set, which are the same for every run of a fit;
                  those with its caption or its image are left out, they would compete with it for being right

Both are functions of one matrix of logits, cases and competitors in one: the gradients of all cases come from one
forward pass, through the cotangents of the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from ecif import contrastive
from ecif.curvature import Cotangents, through_logits
from ecif.errors import InputError, UsageError
from ecif.run import Run
from ecif.segmentation import segment
from ecif.shards.decode import Pair, Refused
from ecif.stages.batches import add, image_states, in_parts, load_batch, pull_back_tower, text_states
from ecif.stages.engine import Engine
from ecif.stages.reading import read_pairs
from ecif.stages.spool import image_digest, spool
from ecif.storage import Storage
from ecif.towers import SCALE, State

MOST = 64  # cases of one call: each holds a gradient, and adds a derivative to every number of the embeddings


@dataclass(frozen=True, slots=True)
class Case:
    """A test pair.

    Attributes:
        name: of its file, or its key. image: the encoded bytes. caption: the right one; its loss is traced.
        mistaken: the caption that the model gives instead, if that is asked about; one more candidate.
    """

    name: str
    image: bytes
    caption: str
    mistaken: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A case as the model sees it.

    Attributes:
        loss: that is traced. gradient: of it, by parameter name. among: how many different captions competed.
        rank: of the right caption for the image among these; 1 is a right answer. answer: the first of them.
        competitors: `candidates` or `validation`.
    """

    case: Case
    loss: float
    gradient: dict[str, Tensor]
    rank: int
    among: int
    answer: str
    competitors: str

    @property
    def gradient_norm(self) -> float:
        """|grad L_test|."""
        return sum(float(part.double().square().sum()) for part in self.gradient.values()) ** 0.5


def from_files(images: Sequence[str], texts: Sequence[str], expected: Sequence[str], storage: Storage) -> list[Case]:
    """One case for each image, in order.

    Args:
        texts: the caption of each. expected: if given, the right caption of each; then `texts` are mistakes.

    Raises:
        UsageError: numbers that differ, or a blank caption. InputError: an image file cannot be read.
    """
    if len(images) != len(texts) or len(expected) not in (0, len(texts)):
        raise UsageError(
            f"{len(images)} --image, {len(texts)} --text and {len(expected)} --expected: every image needs one text, "
            "and --expected for all of them or for none"
        )
    for option, given in (("--text", texts), ("--expected", expected)):
        if not all(text.strip() for text in given):
            raise UsageError(f"{option}: the caption is empty")
    if any(text == right for text, right in zip(texts, expected, strict=False)):
        raise UsageError("--text and --expected are the same caption; without a mistake, give --text alone")
    named = zip_longest(images, texts, expected)
    return [
        Case(image.rpartition("/")[2], storage.read_bytes(image), right or text, text if right else None)
        for image, text, right in named
    ]


def from_tar(url: str, run: Run, engine: Engine) -> tuple[list[Case], list[Refused]]:
    """The pairs of a tar, and the samples that are none.

    Raises:
        BadTarError: it is no tar. StorageError: it cannot be read.
    """
    cases, refused = [], []
    for item in read_pairs(url, url, run.storage, run.settings.caption, engine.limits):
        if isinstance(item, Refused):
            refused.append(item)
        else:
            cases.append(Case(item.key, item.image, item.caption))
    return cases, refused


def read_candidates(url: str, storage: Storage) -> list[str]:
    """One caption per line; blank lines and repetitions are left out.

    Raises:
        InputError: not UTF-8, or without a caption.
    """
    try:
        lines = storage.read_bytes(url).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError("is not UTF-8 text; candidates are captions, one per line", url=url) from error
    found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise InputError("holds no caption; candidates are captions, one per line", url=url)
    return found


def among_candidates(engine: Engine, cases: Sequence[Case], candidates: Sequence[str]) -> list[Asked]:
    """Trace the cross-entropy of each case's caption over the candidates and its own captions.

    Raises:
        UsageError: a case has no competitor. InputError: an image cannot be decoded.
    """
    own = [[text for text in (case.caption, case.mistaken) if text is not None] for case in cases]
    texts = list(dict.fromkeys([*candidates, *(text for pair in own for text in pair)]))
    column = {text: number for number, text in enumerate(texts)}
    columns = [sorted({column[text] for text in (*candidates, *pair)}) for pair in own]
    if any(len(found) < 2 for found in columns):
        raise UsageError("one candidate is no choice: give more --candidates, or --expected")

    def losses(s: Tensor) -> list[Tensor]:
        return [
            torch.logsumexp(s[row, found], 0) - s[row, column[case.caption]]
            for row, (case, found) in enumerate(zip(cases, columns, strict=True))
        ]

    s, values, gradients = _differentiate(engine, _image_states(engine, cases), text_states(engine, texts), losses)
    return [
        _asked(case, loss, gradient, s[row, found], [texts[number] for number in found], "candidates")
        for row, (case, found, loss, gradient) in enumerate(zip(cases, columns, values, gradients, strict=True))
    ]


def among_validation(run: Run, engine: Engine, cases: Sequence[Case]) -> list[Asked]:
    """Trace Pos / 2 of each case among the pairs of the validation set's first batch.

    Raises:
        UsageError: a case has no competitor. InputError: an image cannot be decoded.
    """
    with spool() as samples:
        for found in run.validation:
            pairs = read_pairs(found.url, found.name, run.storage, run.settings.caption, engine.limits)
            samples.add(pairs, f"{found.name}/")
        batches = segment(samples.keys, run.settings.batch_size, run.settings.seed, 0).batches
        # One place of the batch is the case's.
        rows = batches[0].tolist()[: run.settings.batch_size - 1] if batches else []
        batch = load_batch(engine, samples, rows)
        digests = [samples.digests[row] for row in batch.rows]
    texts = [*batch.captions, *(case.caption for case in cases)]
    members = []
    for number, case in enumerate(cases):
        mine = image_digest(case.image)
        others = [i for i in range(batch.size) if batch.captions[i] != case.caption and digests[i] != mine]
        if not others:
            raise UsageError("no validation pair has another caption and can be used; give --candidates")
        members.append([*others, batch.size + number])

    def losses(s: Tensor) -> list[Tensor]:
        return [contrastive.positive(s[found][:, found])[-1] / 2 for found in members]

    images = [*(image for image, _ in batch.states), *_image_states(engine, cases)]
    own = text_states(engine, [case.caption for case in cases])
    s, values, gradients = _differentiate(engine, images, [*(text for _, text in batch.states), *own], losses)
    return [
        _asked(case, loss, gradient, s[found[-1], found], [texts[number] for number in found], "validation")
        for case, found, loss, gradient in zip(cases, members, values, gradients, strict=True)
    ]


def _image_states(engine: Engine, cases: Sequence[Case]) -> list[State]:
    refused: list[Refused] = []
    pairs = (Pair(case.name, case.name, number, case.image, case.caption) for number, case in enumerate(cases))
    states = [state for chunk in engine.chunks(pairs, refused) for state in image_states(engine, chunk.images)]
    if refused:
        raise InputError(f"cannot be used as a test image: {refused[0].detail}", url=refused[0].key)
    return states


def _differentiate(
    engine: Engine, images: list[State], texts: list[State], losses: Callable[[Tensor], list[Tensor]]
) -> tuple[Tensor, list[float], list[dict[str, Tensor]]]:
    """Logits of all images and texts, the losses that are functions of them, and their gradients by parameter name."""
    towers = engine.towers
    with torch.no_grad():
        u = torch.cat([*in_parts(engine, zip(images), lambda one, _: towers.embed_images(towers.parameters, *one))])
        v = torch.cat([*in_parts(engine, zip(texts), lambda one, _: towers.embed_texts(towers.parameters, *one))])
    s = contrastive.logits(u, v, towers.scale).requires_grad_()
    values = losses(s)
    cotangents: list[Cotangents] = []
    for value in values:
        (h,) = torch.autograd.grad(value, s, retain_graph=True)
        cotangents.append(through_logits(h, u, v, towers.scale))
    by_image = pull_back_tower(engine, "image", images, texts[0], [c.u_BD for c in cotangents])
    by_text = pull_back_tower(engine, "text", texts, images[0], [c.v_BD for c in cotangents])
    totals = [add(*both) for both in zip(by_image, by_text, strict=True)]
    for total, c in zip(totals, cotangents, strict=True):
        if SCALE in total:
            total[SCALE] += c.log_scale.to(total[SCALE])
    return s.detach(), [float(value.detach()) for value in values], totals


def _asked(
    case: Case, loss: float, gradient: dict[str, Tensor], s_C: Tensor, texts: list[str], competitors: str
) -> Asked:
    """Rank and answer from the image's logits of `texts`, which may repeat."""
    logits = dict(zip(texts, s_C.tolist(), strict=True))
    rank = 1 + sum(value > logits[case.caption] for value in logits.values())
    return Asked(case, loss, gradient, rank, len(logits), max(logits, key=logits.__getitem__), competitors)
