"""The micro-batch that nobody chose: as large as the memory of the machine allows, and the same scores."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from bench.decoded import MODEL
from ecif import ram
from ecif.keys import fit_key, score_key
from ecif.progress import Silent
from ecif.settings import ScoreSettings, recorded
from ecif.stages import score, sizing
from ecif.stages.engine import Engine
from ecif.towers.footprint import footprint
from tests.stages.test_fit import fit_all, write_tar
from tests.stages.test_fit import prepare as prepare_any
from tests.tiny import write_model

COLUMNS = ("influence", "positive_influence", "negative_influence", "clip_score", "neg_clip_loss")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_tar(tmp_path / "raw" / "00000.tar", 24)
    write_tar(tmp_path / "validation.tar", 8, 1000)
    write_model(tmp_path / "model")
    return tmp_path


def limit(monkeypatch: pytest.MonkeyPatch, folder: Path, size: int) -> None:
    """A container with so many bytes."""
    folder.mkdir(exist_ok=True)
    (folder / "memory.max").write_text(f"{size}\n")
    monkeypatch.setattr(ram, "CGROUPS", folder)


def prepare(root: Path, **changes: Any) -> tuple[Any, Engine]:
    small = {"segmentations": 1, "sketches": 2, "logra_rank": 2, "logra_init": "random"}
    return prepare_any(root, **small | changes)


def needed(engine: Engine, settings: ScoreSettings, size: int) -> int:
    """Memory with which a micro-batch of `size` just fits."""
    found, model = footprint(engine.towers), engine.towers.loaded.model
    weights = sum(part.nbytes for part in (*model.parameters(), *model.buffers()))
    trainable = sum(part.nbytes for part in engine.towers.parameters.values())
    numbers = sum(part.numel() for part in engine.towers.parameters.values())
    fixed = max(trainable, 5 * 8 * numbers)
    one = sizing.PROGRAM + weights + fixed + found.of(1)
    return one + 2 * (found.of(size) - found.of(1))


def test_an_ordinary_machine_takes_the_most(corpus: Path) -> None:
    said: list[str] = []
    run, engine = prepare(corpus)
    assert run.settings.micro_batch is None
    assert engine.micro_batch == 128
    assert sizing.fitting(engine.towers, run.settings, said.append) == 128
    assert said == []


@pytest.mark.parametrize("trainable", ["heads", "last:1", "all"])
def test_the_largest_power_of_two_that_fits(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainable: str
) -> None:
    run, engine = prepare(corpus, trainable=trainable)
    for room, expected in ((128, 128), (127, 64), (31, 16), (1, 1)):
        said: list[str] = []
        limit(monkeypatch, tmp_path / "groups", needed(engine, run.settings, room) + 1)
        assert sizing.fitting(engine.towers, run.settings, said.append) == expected
        assert [text.startswith(f"cpu: a micro-batch of {expected} by an estimate") for text in said] == (
            [True] if expected < 128 else []
        )


def test_less_than_one_pair_takes_is_tried_with_a_warning(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, engine = prepare(corpus)
    said: list[str] = []
    limit(monkeypatch, tmp_path / "groups", needed(engine, run.settings, 1) - 1)
    assert sizing.fitting(engine.towers, run.settings, said.append) == 1
    (text,) = said
    assert "cpu: by an estimate a micro-batch of 1 does not fit" in text
    assert "--trainable heads or last:K and fewer --columns" in text


def test_a_given_one_is_taken_as_it_is(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, tmp_path / "groups", 1 << 20)
    assert prepare(corpus, micro_batch=77)[1].micro_batch == 77
    assert prepare(corpus)[1].micro_batch == 1


def test_on_a_cpu_no_more_is_taken_than_stays_near_its_cores(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    run, engine = prepare(corpus)
    found = footprint(engine.towers)
    monkeypatch.setattr(sizing, "NEAR", found.of(64) - found.of(1))
    assert sizing.fitting(engine.towers, run.settings, said.append) == 64
    monkeypatch.setattr(sizing, "NEAR", 0)
    assert sizing.fitting(engine.towers, run.settings, said.append) == 32
    assert said == []  # that is no want of memory


def test_what_runs_on_more_directions_at_once_needs_more(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, engine = prepare(corpus, trainable="last:1", precision="fp32")
    limit(monkeypatch, tmp_path / "groups", needed(engine, run.settings, 64))
    sizes = [
        sizing.fitting(engine.towers, run.settings.model_copy(update=changes), lambda text: None)
        for changes in ({}, {"columns": ("tracin",)}, {"curvature": "fisher"}, {"index": True})
    ]
    assert sizes[0] == 64
    # A CPU takes one direction after the other: only the numbers of the directions themselves count there.
    assert sizes[1] in (32, 64)
    assert all(size < 64 for size in sizes[2:])


def test_a_model_that_looks_at_numbers_is_not_estimated(corpus: Path) -> None:
    run, engine = prepare(corpus, trainable="all")
    model: Any = engine.towers.loaded.model
    model.visual.register_forward_hook(lambda module, inputs, output: output * float(output.sum()))
    with pytest.raises(Exception, match="meta"):
        footprint(engine.towers)
    assert sizing.fitting(engine.towers, run.settings, lambda text: None) == 128


def test_a_device_of_unknown_memory_is_not_estimated(corpus: Path) -> None:
    run, engine = prepare(corpus)
    assert sizing.memory_of(torch.device("meta")) is None
    assert sizing.fitting(engine.towers.shapes(), run.settings, lambda text: None) == 128


def test_keys_and_records_do_not_know_it() -> None:
    free, given = ScoreSettings(), ScoreSettings(micro_batch=128)
    assert fit_key(free, {}) == fit_key(given, {})
    assert score_key("0" * 12, free) == score_key("0" * 12, given)
    text = json.dumps(recorded(free))
    again = ScoreSettings.model_validate(json.loads(text))
    assert again.micro_batch is None


@pytest.mark.parametrize("trainable", ["heads", "last:1"])
def test_a_container_with_little_memory_gives_the_same_scores(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainable: str
) -> None:
    run, engine = prepare(corpus, trainable=trainable, precision="fp32")
    fit_all(run, engine)

    def scored(of: Engine) -> pl.DataFrame:
        (shard,) = run.inventory.shards
        found = score.score_frame(run, of, shard, score.load_direction(run, of), Silent())
        return found[0]

    whole = scored(engine)
    limit(monkeypatch, tmp_path / "groups", needed(engine, run.settings, 8))
    _, little = prepare(corpus, trainable=trainable, precision="fp32")
    assert little.micro_batch == 8
    parts = scored(little)
    assert parts.select("uid", "status", "batch").equals(whole.select("uid", "status", "batch"))
    for name in COLUMNS:
        found, wanted = (frame[name].fill_null(0).to_numpy() for frame in (parts, whole))
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max(), name


LIMITED = """
import sys
from pathlib import Path

from ecif import ram
from ecif.stages import score
from tests.stages.test_fit import fit_all
from tests.stages.test_sizing import prepare

root, limit = Path(sys.argv[1]), sys.argv[2]
(root / "memory.max").write_text(limit)
ram.CGROUPS = root
run, engine = prepare(root, trainable="all", precision="fp32", batch_size=32)
fit_all(run, engine)
(shard,) = run.inventory.shards
score.score_shard(run, engine, shard, score.load_direction(run, engine))
status = Path("/proc/self/status").read_text().splitlines()
print(engine.micro_batch, *(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.integration
def test_a_process_stays_within_its_container(tmp_path: Path) -> None:
    """Fit and scores in all parameters of 12 layers a tower: the peak of the process is below the limit it was told."""
    write_tar(tmp_path / "raw" / "00000.tar", 32)
    write_tar(tmp_path / "validation.tar", 8, 1000)
    write_model(tmp_path / "model", MODEL)
    limit = 3_500_000_000
    command = [sys.executable, "-W", "ignore", "-c", LIMITED, str(tmp_path), str(limit)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stderr
    chosen, peak = map(int, ended.stdout.split()[-2:])
    assert 1 < chosen < 32
    assert peak < limit
