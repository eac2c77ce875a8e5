"""The validation loss and its gradient: what 'better' means for the influence of a pair.

`contrastive` is the mean over the validation pairs of Pos_i / 2 in seeded, balanced batches of B, averaged over
segmentations (`averaged`).
`prompts:FILE` is the mean zero-shot cross-entropy of the pairs' classes over class prompts. FILE is JSON,
{"label": "FIELD", "classes": {"cat": ["a photo of a cat."], ...}}, and FIELD is the field of a pair's .json member
that holds its class.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ecif import contrastive
from ecif.errors import InputError, UsageError
from ecif.progress import Progress, Silent
from ecif.segmentation import segment
from ecif.settings import ScoreSettings
from ecif.sources import Found
from ecif.stages import averaged
from ecif.stages.batches import Batch, add, in_parts, load_batch, pull_back_tower, text_states
from ecif.stages.engine import Engine
from ecif.stages.reading import read_pairs
from ecif.stages.spool import Spool, spool
from ecif.storage import Storage
from ecif.towers import SCALE


@dataclass(frozen=True, slots=True)
class Validation:
    """Validation loss at theta_0 and its gradient by parameter name.

    Attributes:
        pairs: used ones. refused: others, by status. loss: L_val. digests: (n, 16) uint8, of the images.
    """

    gradient: dict[str, Tensor]
    loss: float
    pairs: int
    refused: dict[str, int]
    digests: Tensor

    @property
    def gradient_norm(self) -> float:
        """|grad L_val|."""
        return sum(float(part.double().square().sum()) for part in self.gradient.values()) ** 0.5


@dataclass(frozen=True, slots=True)
class ClassPrompts:
    """Zero-shot classes: the field that holds a pair's class, and the prompts of each class."""

    label: str
    classes: dict[str, list[str]]


def load_validation(
    tars: Sequence[Found],
    settings: ScoreSettings,
    storage: Storage,
    engine: Engine,
    progress: Progress = Silent(),
) -> Validation:
    """Read the trusted pairs and differentiate the validation loss.

    Raises:
        UsageError: fewer than two pairs can be used. InputError: a tar or the prompts file is bad.
    """
    prompts = _prompts(settings, storage)
    caption = f"json:{prompts.label}" if prompts else settings.caption
    with spooled(tars, caption, storage, engine) as samples:
        progress.stage("validation", len(samples) * (1 if prompts else 2), "pairs")
        if prompts:
            loss, gradient, pairs = _classified(engine, samples, settings, prompts, progress)
        else:
            loss, gradient, pairs = averaged.differentiate(engine, samples, settings, progress)
        progress.end()
        refused = Counter(sample.status for sample in samples.refused)
        digests = torch.from_numpy(np.frombuffer(b"".join(samples.digests), np.uint8).reshape(-1, 16).copy())
    if pairs < 2:
        reasons = ", ".join(f"{count} {status}" for status, count in sorted(refused.items())) or "they are empty"
        raise UsageError(f"--validation: {pairs} pairs of the validation tars can be used; two are needed ({reasons})")
    return Validation(gradient, loss, pairs, dict(sorted(refused.items())), digests)


@contextmanager
def spooled(tars: Sequence[Found], caption: str, storage: Storage, engine: Engine) -> Iterator[Spool]:
    """The pairs of the validation tars.

    Args:
        caption: where the caption is, as in the settings.
    """
    with spool() as samples:
        for found in tars:
            # The tar's place keeps equal keys of several tars apart.
            samples.add(read_pairs(found.url, found.name, storage, caption, engine.limits), f"{found.name}/")
        yield samples


def _classified(
    engine: Engine, samples: Spool, settings: ScoreSettings, prompts: ClassPrompts, progress: Progress
) -> tuple[float, dict[str, Tensor], int]:
    """Mean cross-entropy of the pairs' classes, its gradient, and how many pairs they are."""
    loss, pairs, total = 0.0, 0, {name: torch.zeros_like(p) for name, p in engine.towers.parameters.items()}
    for rows in segment(samples.keys, settings.batch_size, settings.seed, 0).batches:
        batch = load_batch(engine, samples, rows.tolist())
        if batch.size:
            term, gradient = _zero_shot(engine, batch, prompts)
            loss, pairs, total = loss + term, pairs + batch.size, add(total, gradient)
        progress.advance(len(rows))
    return loss / max(pairs, 1), {name: part / max(pairs, 1) for name, part in total.items()}, pairs


def _zero_shot(engine: Engine, batch: Batch, prompts: ClassPrompts) -> tuple[float, dict[str, Tensor]]:
    """Sum over a batch of the cross-entropy of its classes, and its gradient.

    A class is the unit-norm mean of its prompts' embeddings, as open_clip builds its zero-shot classifier.
    """
    towers = engine.towers
    names = list(prompts.classes)
    number = {name: n for n, name in enumerate(names)}
    if unknown := sorted(set(batch.captions) - set(names)):
        raise UsageError(f"--objective: no prompts for the class {unknown[0]!r} of a validation pair")
    targets = torch.tensor([number[label] for label in batch.captions], device=towers.device)
    prompted = text_states(engine, [text for texts in prompts.classes.values() for text in texts])
    # The captions of the batch are class names here: only its images are in the loss.
    images = [image for image, _ in batch.states]
    with torch.no_grad():
        u = torch.cat([*in_parts(engine, zip(images), lambda one, _: towers.embed_images(towers.parameters, *one))])
        t = torch.cat([*in_parts(engine, zip(prompted), lambda one, _: towers.embed_texts(towers.parameters, *one))])
    u_BD, t_TD = u.requires_grad_(), t.requires_grad_()
    log_scale = torch.tensor(towers.scale, dtype=u.dtype, device=u.device).log().requires_grad_()
    with torch.enable_grad():
        means = [part.mean(0) for part in t_TD.split([len(texts) for texts in prompts.classes.values()])]
        classes = torch.nn.functional.normalize(torch.stack(means), dim=-1)
        logits = contrastive.logits(u_BD, classes, log_scale.exp())
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    du_BD, dt_TD, dlog = torch.autograd.grad(loss, (u_BD, t_TD, log_scale))
    (through_images,) = pull_back_tower(engine, "image", images, prompted[0], [du_BD])
    (through_texts,) = pull_back_tower(engine, "text", prompted, images[0], [dt_TD])
    gradient = add(through_images, through_texts)
    if SCALE in gradient:
        gradient[SCALE] = gradient[SCALE] + dlog.to(gradient[SCALE])
    return float(loss.detach()), gradient


def _prompts(settings: ScoreSettings, storage: Storage) -> ClassPrompts | None:
    kind, _, url = settings.objective.partition(":")
    return None if kind == "contrastive" else read_prompts(url, storage)


def read_prompts(url: str, storage: Storage) -> ClassPrompts:
    """The class prompts in a file.

    Raises:
        InputError: it is none.
    """
    try:
        loaded = json.loads(storage.read_bytes(url))
        prompts = ClassPrompts(loaded["label"], loaded["classes"])
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            'is not a prompts file: {"label": FIELD, "classes": {NAME: [PROMPT, ...]}}', url=url
        ) from error
    well_formed = isinstance(prompts.label, str) and isinstance(prompts.classes, dict) and len(prompts.classes) > 1
    if not well_formed or not all(isinstance(texts, list) and texts for texts in prompts.classes.values()):
        raise InputError("needs a label field and at least two classes with prompts each", url=url)
    return prompts
