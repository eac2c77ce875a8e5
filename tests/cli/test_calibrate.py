from __future__ import annotations

import json
from pathlib import Path

import pytest

from ecif import detectors, keys
from ecif.cli import run
from tests.calibration.world import SCORES, build


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output with scores and canaries, of a run with a canary for every twentieth pair."""
    world = build(tmp_path / "out", shards=3, pairs=300, canary_key=keys.canary_key(SCORES, 0.05))
    meta = {"fit_key": "f" * 12, "settings": {"canaries": 0.05}, "versions": {}}
    Path(world.layout.score_meta(SCORES)).write_text(json.dumps(meta))
    return tmp_path / "out"


def test_the_answer_is_a_table_and_what_follows_from_it(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["calibrate", str(out)]) == 0
    shown = capsys.readouterr().out
    for word in (*detectors.NAMES, detectors.LEARNED, "swap", "near", "word", "drop", "without influence"):
        assert word in shown
    assert "natural mistakes, if they are like the canaries: 0." in shown
    assert "precision 50%: p_misaligned drops" in shown
    assert "weights of p_misaligned: " in shown
    assert "canaries are not natural mistakes" in shown
    (file,) = (out / "_ecif" / "calibration").glob("*.json")
    assert str(file) in shown.replace("\n", "")


def test_as_json_it_is_the_file_without_its_curves(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["calibrate", str(out), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    (file,) = (out / "_ecif" / "calibration").glob("*.json")
    assert value.pop("calibration") == str(file)
    written = json.loads(file.read_text())
    assert written.pop("curves").keys() == written["measures"].keys()
    assert value == written


def test_a_dry_run_writes_nothing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["calibrate", str(out), "--dry-run"]) == 0
    assert "_ecif/calibration/" in capsys.readouterr().out
    assert not (out / "_ecif" / "calibration").exists()


def test_canaries_of_another_share_are_asked_for(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["calibrate", str(out), "--share", "0.2"]) == 2
    assert "score with --canaries above 0" in capsys.readouterr().err
    assert run(["calibrate", str(out), "--share", "0.05"]) == 0


def test_an_output_without_scores_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "_ecif").mkdir()
    assert run(["calibrate", str(tmp_path)]) == 2
    assert "run score first" in capsys.readouterr().err
