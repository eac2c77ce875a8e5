"""Both ways to influence along one direction answer the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench import decoded
from bench.against import Question

SMALL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.mark.parametrize("variant", decoded.EXACT)
def test_a_derivative_answers_what_gradients_and_a_dot_product_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    monkeypatch.setattr(decoded, "MODEL", SMALL)
    question = Question.ask(decoded.Subject(tmp_path, 6, 4, 1), variant)
    along, by_gradients = question.along(), question.by_gradients()
    assert along.shape == (2, 6)
    torch.testing.assert_close(along, by_gradients, rtol=1e-3, atol=1e-4 * float(along.abs().max()))
