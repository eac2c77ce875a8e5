"""Detectors that read similarities, against plain loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ecif.detectors import aum, average_similarity, clip_logit, clip_score, neg_clip_loss
from ecif.detectors.views import BatchView, Checkpoint
from tests.detectors.heads import SCALE, Heads

N = 6


def view() -> BatchView:
    """Pairs 1 and 4 have the same caption."""
    problem = Heads(N)
    problem.h_text[4] = problem.h_text[1]
    return replace(problem.view(), captions_B=torch.tensor([0, 1, 2, 3, 1, 5]))


def test_clip_score_and_neg_clip_loss() -> None:
    s = view().s_BB
    similarity, normalised = clip_score.compute(view()), neg_clip_loss.compute(view())
    for n in range(N):
        assert float(similarity[n]) == pytest.approx(float(s[n, n]) / SCALE)
        row = math.log(sum(math.exp(float(s[n, k])) for k in range(N)))
        column = math.log(sum(math.exp(float(s[k, n])) for k in range(N)))
        assert float(normalised[n]) == pytest.approx(-(row + column - 2 * float(s[n, n])) / (2 * SCALE))


def test_clip_logit_counts_every_caption_once() -> None:
    found = clip_logit.compute(view())
    cosine = view().s_BB / SCALE
    for n in range(N):
        distinct = [k for k in range(N) if k != (1 if n == 4 else 4)]
        total = sum(math.exp(float(cosine[n, k] - cosine[n, n]) / 0.01) for k in distinct)
        assert float(found[n]) == pytest.approx(-math.log(total))


def test_aum_and_average_similarity_over_checkpoints() -> None:
    problem = Heads(N, seed=1)
    points = (Checkpoint(view().s_BB, SCALE), Checkpoint(2 * problem.logits(problem.theta), 2 * SCALE))
    seen = replace(view(), checkpoints=points)
    margins, similarities = aum.compute(seen), average_similarity.compute(seen)
    captions = seen.captions_B.tolist()
    for n in range(N):
        others = [k for k in range(N) if captions[k] != captions[n]]
        margin = [float(p.s_BB[n, n]) - max(float(p.s_BB[n, k]) for k in others) for p in points]
        assert float(margins[n]) == pytest.approx(sum(margin) / 2)
        assert float(similarities[n]) == pytest.approx(sum(float(p.s_BB[n, n]) / p.scale for p in points) / 2)


def test_a_batch_of_one_caption_has_no_margin() -> None:
    seen = replace(view(), captions_B=torch.zeros(N, dtype=torch.int64), checkpoints=(Checkpoint(view().s_BB, SCALE),))
    assert aum.compute(seen).tolist() == [0.0] * N


@pytest.mark.parametrize("detector", [aum, average_similarity])
def test_without_checkpoints_there_is_no_training_run(detector) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="checkpoints"):
        detector.compute(view())
