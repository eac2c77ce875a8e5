"""`--dry-run`: what it says is what the command then does, and nothing changes before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ecif.cli import commands, run
from tests.conftest import MakeTar
from tests.squares import SAMPLES, SHARDS, Corpus, files, lay_out
from tests.tiny import write_model

# They read, or tell others; `lint --jsonl` writes what it is asked for, `doctor` tries to write: that is its work.
WRITE_NOTHING = {"lint", "diff", "verify", "doctor", "notify", "poll"}


@pytest.fixture
def corpus(tmp_path: Path, make_tar: MakeTar) -> Corpus:
    return lay_out(tmp_path, write_model(tmp_path / "model"), make_tar)


class Trial:
    """Runs a command with --dry-run, and sees to it that no file appears, changes or goes."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self.capsys = root, capsys

    def __call__(self, *arguments: str) -> list[dict[str, Any]]:
        before = files(self.root)
        self.capsys.readouterr()
        assert run([*arguments, "--dry-run"]) == 0
        text = self.capsys.readouterr().out
        assert text.startswith("dry run: nothing was computed or written\n")
        assert run([*arguments, "--dry-run", "--json"]) == 0
        value = json.loads(self.capsys.readouterr().out)
        assert files(self.root) == before
        assert value["dry_run"] is True
        steps: list[dict[str, Any]] = value["would"]
        assert all(f"{step['stage']}: {step['compute']}" in text for step in steps)
        return steps


def test_every_command_that_writes_has_it() -> None:
    def names(command: str) -> set[str]:
        return {name for one in found[command].assemble_argument_collection() for name in one.names}

    found = commands()
    assert {name for name in found if "--dry-run" not in names(name)} == WRITE_NOTHING


def test_stage_by_stage(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = corpus.raw.parent, str(corpus.out)
    trial = Trial(root, capsys)
    inputs = [*corpus.sources, *corpus.options()]
    size = sum(path.stat().st_size for path in corpus.raw.iterdir())
    steps = trial("clean", *inputs, "--drop", "0.25")
    assert [step["stage"] for step in steps] == ["fit", "score", "plan", "apply", "report"]
    assert not corpus.out.exists()
    (fit,) = trial("fit", *inputs)
    assert fit == steps[0]
    assert (fit["read_shards"], fit["read_pairs"]) == (2, 2 * SAMPLES)  # --fit-pairs 20
    assert run(["fit", *inputs]) == 0
    assert len(list(corpus.out.glob("_ecif/fit/*/partial/*"))) == fit["read_shards"]
    assert trial("fit", *inputs)[0]["write_files"] == 0
    (score,) = trial("score", *inputs)
    assert (score["read_shards"], score["read_bytes"], score["read_pairs"]) == (SHARDS, size, SHARDS * SAMPLES)
    assert trial("watch", *inputs, "--drop", "0.25")[2]["compute"].endswith("when 4 more shards have scores")
    assert run(["score", *inputs]) == 0
    assert trial("score", *inputs)[0]["write_files"] == 0
    (plan,) = trial("plan", out, "--drop", "0.25")
    assert run(["plan", out, "--drop", "0.25"]) == 0
    (decision,) = corpus.out.glob("_ecif/decision/*.json")
    (counted,) = corpus.out.glob("_ecif/plan/*.json")
    assert plan["where"] == f"{decision}, {counted}"
    assert plan["write_bytes"] == decision.stat().st_size + counted.stat().st_size
    assert trial("plan", out, "--drop", "0.25")[0]["write_files"] == 0
    assert trial("clean", *inputs, "--drop", "0.25")[3] == trial("apply", out)[0]
    assert trial("trace", *inputs, "--image", "x.png", "--text", "a square")[0]["read_shards"] == SHARDS
    (edit,) = trial("edit", *inputs, "--weights", str(root / "edited.safetensors"))
    assert f"for {SAMPLES} pairs" in edit["compute"]
    (apply,) = trial("apply", out)
    assert (apply["read_bytes"], apply["about"]) == (size, True)
    assert run(["apply", out]) == 0
    written = sum(path.stat().st_size for path in corpus.out.glob("*.tar"))
    assert apply["write_bytes"] == pytest.approx(written, rel=0.2)
    assert trial("apply", out)[0]["write_files"] == 0
    (report,) = trial("report", out)
    (restore,) = trial("restore", out, "--all")
    assert f"brings {SAMPLES} samples back" in restore["compute"]
    assert run(["restore", out, "--all"]) == 0
    assert trial("restore", out, "--all")[0]["write_files"] == 0
    uids = root / "left.npy"
    (export,) = trial("export", out, "--uids", str(uids), "--commonpool", str(root / "pool"))
    assert run(["export", out, "--uids", str(uids), "--commonpool", str(root / "pool")]) == 0
    made = [uids, *(root / "pool").iterdir()]
    assert (export["write_files"], export["write_bytes"]) == (len(made), sum(path.stat().st_size for path in made))
    assert run(["report", out]) == 0
    (rollup,) = corpus.out.glob("_ecif/rollup/report/*.npz")
    (pictures,) = corpus.out.glob("_ecif/rollup/report/*.pictures.parquet")
    # Their names are digests, of the keys of this corpus too.
    assert report["where"] == ", ".join([f"{out}/_ecif/report/index.html", *sorted(map(str, (pictures, rollup)))])


def test_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (step,) = Trial(tmp_path, capsys)("demo", "--out", str(tmp_path / "demo"), "--pairs", "900")
    assert "900 pairs" in step["compute"]
    assert not (tmp_path / "demo").exists()


def test_what_the_command_refuses_the_dry_run_refuses(
    tmp_path: Path, make_tar: MakeTar, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["plan", str(tmp_path), "--drop", "0.1"], "holds no"),
        (["apply", str(tmp_path)], "holds no decision"),
        (["restore", str(tmp_path)], "which samples?"),
        (["export", str(tmp_path)], "holds no inventory"),
        (["fit", "nowhere.tar", "--out", str(tmp_path)], "--model and --pretrained"),
    ):
        assert run([*arguments, "--dry-run"]) == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
