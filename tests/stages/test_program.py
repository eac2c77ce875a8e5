"""The program that decodes is started while a model is loaded, and ends with whoever started it, told or not."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
import torch

from ecif.errors import ModelError
from ecif.settings import ScoreSettings
from ecif.shards.decode import Pair, Refused
from ecif.stages import engine as engines
from ecif.stages.engine import load_engine
from ecif.stages.preparing import Ready
from ecif.stages.program import Program
from ecif.towers.loading import LoadedModel, load
from tests.stages.test_engine import engine, samples
from tests.stages.test_engine import files as files  # the fixture
from tests.stages.test_processes import copies, gone

_BUFFER = io.BytesIO()
PIL.Image.new("RGB", (40, 40)).save(_BUFFER, "PNG")
BLACK = _BUFFER.getvalue()
ROOT = Path(__file__).resolve().parents[2]


def test_it_is_there_before_the_weights_are_and_decodes_for_them(
    files: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    class Noted(Program):
        def __init__(self) -> None:
            order.append("program")
            super().__init__()

    def noted(model: str, pretrained: str, dtype: torch.dtype) -> LoadedModel:
        order.append("weights")
        return load(model, pretrained, dtype)

    monkeypatch.setattr(engines, "Program", Noted)
    monkeypatch.setattr(engines, "load", noted)
    of = engine(files, processes=1)
    assert order == ["program", "weights"]
    assert of.program is not None
    assert len(of.prepare(samples(3))) == 3
    assert of._processes._program is of.program
    assert len(copies(of)) == 1


def test_without_processes_there_is_none(files: tuple[str, str]) -> None:
    assert engine(files, workers=2).program is None


def test_two_engines_have_a_program_and_shared_memory_each(files: tuple[str, str]) -> None:
    of = engine(files, processes=1)
    given = samples(3)
    other = replace(of, limits=replace(of.limits, pixels=1))
    first, second = of.prepare(given), other.prepare(given)
    kept = [row.image.clone() for row in first if isinstance(row, Ready)]
    assert len(kept) == 3
    assert [row.status for row in second if isinstance(row, Refused)] == ["too_large_image"] * 3
    assert of._processes._program is of.program
    assert other._processes._program is not of.program
    # Written in the one, black pictures do not come out in the other.
    third = replace(of).prepare([replace(pair, image=BLACK) for pair in given if isinstance(pair, Pair)])
    assert not any(row.image.any() for row in third if isinstance(row, Ready))
    assert all(torch.equal(row.image, was) for row, was in zip(first, kept, strict=True) if isinstance(row, Ready))


def test_one_that_ended_before_it_was_told_is_replaced(files: tuple[str, str]) -> None:
    of = engine(files, processes=1)
    assert of.program is not None
    os.kill(of.program.pid, signal.SIGKILL)
    of.program._process.wait()
    assert len(of.prepare(samples(3))) == 3
    assert of._processes._program is not of.program


def test_a_model_that_cannot_be_loaded_leaves_none(files: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []

    class Noted(Program):
        def __init__(self) -> None:
            super().__init__()
            pids.append(self.pid)

    monkeypatch.setattr(engines, "Program", Noted)
    with pytest.raises(ModelError):
        load_engine(ScoreSettings(model=files[0], pretrained="nowhere.safetensors", device="cpu", processes=2))
    gc.collect()
    assert len(pids) == 1
    assert gone(pids)


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_one_that_is_never_told_says_nothing_and_ends(how: str) -> None:
    code = "import os, sys; from ecif.stages.program import Program; it = Program(); print(it.pid, flush=True); "
    code += "sys.stdin.read(); os.kill(os.getpid(), 9) if sys.argv[1] == 'kill' else sys.exit()"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    process.stdin.close()
    assert process.wait(60) == (-signal.SIGKILL if how == "kill" else 0)
    # It holds the error stream too, which ends with it.
    assert process.stderr is not None
    started = time.monotonic()
    assert process.stderr.read() == ""
    assert time.monotonic() - started < 60
    process.stdout.close()
    process.stderr.close()
