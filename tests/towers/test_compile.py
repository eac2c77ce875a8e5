"""Compiled stems give what the others give, for any number of samples; what cannot be compiled is refused at once."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch._inductor import config

from ecif.errors import ModelError
from ecif.towers import Towers
from ecif.towers.loading import load
from tests.tiny import write_model

CAPTIONS = ["a red circle", "a blue square", "two dogs", "a cat", "a kite"]


def towers(folder: Path, choice: str) -> Towers:
    model, weights = write_model(folder)
    return Towers(load(str(model), str(weights), torch.float32), choice, torch.device("cpu"))


def agree(folder: Path, choice: str) -> None:
    plain, compiled = towers(folder, choice), towers(folder, choice)
    compiled.compile()
    for count in (1, 3, 5):
        images = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        captions = CAPTIONS[:count]
        for found, wanted in zip(
            (*compiled.image_stem(images), *compiled.text_stem(captions)),
            (*plain.image_stem(images), *plain.text_stem(captions)),
            strict=True,
        ):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        # What is differentiated is not compiled, and takes the compiled part's output.
        state = compiled.image_stem(images), compiled.text_stem(captions)
        along = {name: torch.ones_like(value) for name, value in compiled.parameters.items()}
        derivatives = compiled.push_forward([along], *state)
        for part in derivatives:
            assert part.isfinite().all()


@pytest.mark.parametrize("choice", ["heads", "last:1"])
def test_what_is_traced_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    """All but the last step, which takes a C++ compiler and half a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    agree(tmp_path, choice)


@pytest.mark.integration
def test_what_is_compiled_gives_the_same(tmp_path: Path) -> None:
    agree(tmp_path, "heads")


def test_without_a_compiler_it_is_refused_when_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config.cpp, "cxx", (None, "there-is-no-such-compiler"))
    monkeypatch.setattr(config, "force_disable_caches", True)
    with pytest.raises(ModelError, match=r"--compile on: the towers cannot be compiled here .* use --compile off"):
        towers(tmp_path, "heads").compile()


def test_all_parameters_leave_nothing_to_compile(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="with 'all' there is none"):
        towers(tmp_path, "all").compile()
