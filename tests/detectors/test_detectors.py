"""Baselines against plain loops, their signs, and the facts that users choose by."""

from __future__ import annotations

import math

import pytest
import torch

from ecif.detectors import NAMES, clip_score, facts, neg_clip_loss
from ecif.errors import UsageError
from ecif.influence import BatchTerms
from ecif.stages.score import SCHEMA

SCALE = 10.0


def terms(wrong: int | None = None) -> BatchTerms:
    """A batch of nearly equal pairs of embeddings; at `wrong` the text is that of the next sample."""
    generator = torch.Generator().manual_seed(0)
    u = torch.nn.functional.normalize(torch.randn(6, 4, generator=generator, dtype=torch.float64), dim=1)
    v = torch.nn.functional.normalize(u + 0.1 * torch.randn(6, 4, generator=generator, dtype=torch.float64), dim=1)
    if wrong is not None:
        v[wrong] = v[wrong + 1]
    s = SCALE * u @ v.T
    return BatchTerms(s, torch.zeros_like(s), SCALE, "exact")


def test_against_plain_loops() -> None:
    s = terms().s_BB
    similarity, normalised = clip_score.compute(terms()), neg_clip_loss.compute(terms())
    for n in range(6):
        assert float(similarity[n]) == pytest.approx(float(s[n, n]) / SCALE)
        row = math.log(sum(math.exp(float(s[n, k])) for k in range(6)))
        column = math.log(sum(math.exp(float(s[k, n])) for k in range(6)))
        assert float(normalised[n]) == pytest.approx(-(row + column - 2 * float(s[n, n])) / (2 * SCALE))


@pytest.mark.parametrize("detector", [clip_score, neg_clip_loss])
def test_a_wrong_pair_scores_lower_than_the_right_one(detector) -> None:  # type: ignore[no-untyped-def]
    assert detector.compute(terms(wrong=2))[2] < detector.compute(terms())[2]
    assert detector.compute(terms(wrong=2)).argmin() == 2


def test_every_detector_is_a_column_with_a_sign_and_a_source() -> None:
    for name in NAMES:
        found = facts(name)
        assert found.column in SCHEMA
        assert found.higher_is_worse is False
        assert found.title
        assert found.reference.startswith("arXiv ")
    with pytest.raises(UsageError, match="clip_score"):
        facts("clipscore")
