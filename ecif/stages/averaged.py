"""The contrastive validation loss: the mean of Pos_i / 2 over the pairs, and over ways to cut them into batches.

The loss of a pair depends on which others it meets in its batch. One cut is one draw of that: with some hundred
validation pairs the gradient moves by a third of its length from cut to cut, and the ranking by influence with it. So
S segmentations are averaged, as scores average over K of the corpus. Each counts alike:

    L_val = 1/S sum_s L_s,    L_s = 1/n_s sum of Pos_i / 2 over the n_s pairs of its batches of two or more

The pull-back through the towers is linear, so the cotangents that a pair gets from all segmentations are added up
first: one pass for the embeddings and one for the gradient, whatever S is. Embeddings and cotangents wait on local
disk.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ecif import contrastive
from ecif.curvature import Cotangents, through_logits
from ecif.progress import Progress
from ecif.segmentation import segment
from ecif.settings import ScoreSettings
from ecif.stages.batches import Batch, add, embed, numbers, pull_back
from ecif.stages.engine import Engine
from ecif.stages.spool import Spool
from ecif.stages.stems import rows, stems
from ecif.towers import SCALE


def differentiate(
    engine: Engine, samples: Spool, settings: ScoreSettings, progress: Progress
) -> tuple[float, dict[str, Tensor], int]:
    """L_val, its gradient by parameter name, and the pairs that have a part in it; 0, zeros and 0 where none has.

    Args:
        progress: advanced twice by each pair.
    """
    towers = engine.towers
    total = {name: torch.zeros_like(p) for name, p in towers.parameters.items()}
    loss, log_scale, used = 0.0, torch.zeros((), dtype=torch.float64), 0
    usable: set[int] = set()
    counted: set[int] = set()
    with stems(engine, samples) as behind, rows() as embeddings, rows() as cotangents:
        for places in _cut(samples, settings, 0):
            batch = behind.batch(places)
            if batch.size:
                embedded = torch.cat(embed(engine, batch), 1)
                embeddings.write(batch.rows, embedded)
                cotangents.write(batch.rows, torch.zeros_like(embedded))
                usable.update(batch.rows)
            progress.advance(len(places))
        for k in range(_count(samples, settings)):
            cut = _competing(_cut(samples, settings, k), usable)
            pairs = sum(map(len, cut))
            used += pairs > 0
            for places in cut:
                u_BD, v_BD = embeddings.read(places).to(towers.device).chunk(2, 1)
                captions_B = numbers(samples.captions(places)) if settings.equal_captions == "mask" else None
                term, sent = _batch_loss(u_BD, v_BD, towers.scale, captions_B)
                loss += term / pairs
                log_scale += sent.log_scale.double().cpu() / pairs
                cotangents.write(places, cotangents.read(places) + torch.cat([sent.u_BD, sent.v_BD], 1).cpu() / pairs)
                counted.update(places)
        for places in _cut(samples, settings, 0) if used else ():
            batch = behind.batch(places)
            if batch.size:
                u_BD, v_BD = cotangents.read(batch.rows).to(towers.device).chunk(2, 1)
                (gradient,) = pull_back(engine, batch, [Cotangents(u_BD, v_BD, torch.zeros(()))])
                total = add(total, gradient)
            progress.advance(len(places))
    if SCALE in total:
        total[SCALE] = total[SCALE] + log_scale.to(total[SCALE])
    return loss / max(used, 1), {name: part / max(used, 1) for name, part in total.items()}, len(counted)


def batches(engine: Engine, samples: Spool, settings: ScoreSettings) -> Iterator[Batch]:
    """The batches of all segmentations, one after the other."""
    with stems(engine, samples) as behind:
        for k in range(_count(samples, settings)):
            for places in _cut(samples, settings, k):
                batch = behind.batch(places)
                if batch.size >= 2:
                    yield batch


def _count(samples: Spool, settings: ScoreSettings) -> int:
    """S; pairs that all fit into one batch can be cut in one way only."""
    return settings.validation_segmentations if len(samples) > settings.batch_size else 1


def _cut(samples: Spool, settings: ScoreSettings, k: int) -> list[list[int]]:
    return [places.tolist() for places in segment(samples.keys, settings.batch_size, settings.seed, k).batches]


def _competing(cut: list[list[int]], usable: set[int]) -> list[list[int]]:
    """The batches without pairs that cannot be decoded; a pair alone has no loss."""
    kept = ([row for row in places if row in usable] for places in cut)
    return [places for places in kept if len(places) >= 2]


def _batch_loss(u_BD: Tensor, v_BD: Tensor, scale: float, captions_B: Tensor | None) -> tuple[float, Cotangents]:
    """Sum of Pos_i / 2 over a batch, and what it sends back."""
    s_BB = contrastive.logits(u_BD, v_BD, scale)
    s_BB = (s_BB if captions_B is None else contrastive.mask_equal(s_BB, captions_B)).requires_grad_()
    loss = contrastive.batch_loss(s_BB) / 2
    (h_BB,) = torch.autograd.grad(loss, s_BB)
    return float(loss.detach()), through_logits(h_BB, u_BD, v_BD, scale)
