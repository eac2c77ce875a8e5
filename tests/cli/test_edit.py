"""`ecif edit`: from a decision or a list to a weights file that the other commands take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ecif.cli import run
from tests.conftest import MakeTar
from tests.squares import Corpus, lay_out
from tests.tiny import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def corpus(tmp_path: Path, model: tuple[Path, Path], make_tar: MakeTar) -> Corpus:
    return lay_out(tmp_path, model, make_tar)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_decision_or_a_list_becomes_weights(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = [*corpus.sources, *corpus.options()]
    edited = str(corpus.out.parent / "edited.safetensors")
    assert run(["edit", *inputs, "--weights", edited]) == 2
    assert "holds no decision" in capsys.readouterr().err
    for arguments in (["fit", *inputs], ["score", *inputs], ["plan", str(corpus.out), "--drop-count", "5"]):
        assert run(arguments) == 0
    code, value = answer(capsys, "edit", *inputs, "--weights", edited)
    assert (code, value["removed"], value["unscored"], value["failed"]) == (0, 5, {}, [])
    assert value["actual"] == value["after"] - value["before"]
    assert answer(capsys, "edit", *inputs, "--weights", edited) == (0, value)
    assert run(["edit", *inputs, "--weights", edited]) == 0
    text = capsys.readouterr().out
    assert "removed 5 pairs" in text
    assert f"predicted change {value['predicted']:+.3e}, actual {value['actual']:+.3e}" in text
    assert text.count("not credible") == len(value["doubts"])
    listed = corpus.out.parent / "remove.txt"
    listed.write_text("00000/000000001\n\n00003/000300004\n", "utf-8")
    other = str(corpus.out.parent / "other.safetensors")
    code, value = answer(capsys, "edit", *inputs, "--remove", str(listed), "--weights", other)
    assert (code, value["removed"], value["shards"]) == (0, 2, 2)
    again = [*corpus.sources, *corpus.options(*(n for n in corpus.values if n not in ("pretrained", "out")))]
    assert run(["fit", *again, "--pretrained", edited, "--out", str(corpus.out.parent / "next")]) == 0


def test_two_ways_to_say_what_goes_are_one_too_many(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = [*corpus.sources, *corpus.options(), "--weights", "w.safetensors"]
    assert run(["edit", *inputs, "--remove", "a.txt", "--decision", "b"]) == 2
    assert "--remove or --decision" in capsys.readouterr().err
    assert run(["edit", *corpus.sources, *corpus.options()]) == 2
    assert "--weights" in capsys.readouterr().err


def test_a_shard_that_fails_is_named_and_the_edit_waits(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = [*corpus.sources, *corpus.options()]
    edited = corpus.out.parent / "edited.safetensors"
    listed = corpus.out.parent / "remove.txt"
    listed.write_text("00000/000000001\n00003/000300004\n", "utf-8")
    for arguments in (["fit", *inputs], ["score", *inputs]):
        assert run(arguments) == 0
    request = ["edit", *inputs, "--remove", str(listed), "--weights", str(edited)]
    first = answer(capsys, *request)
    content = edited.read_bytes()
    edited.unlink()
    partial = corpus.out / "_ecif" / "edit" / first[1]["edit_key"] / "partial" / "00003.safetensors"
    partial.unlink()
    partial.mkdir()  # nothing can be written there
    code, value = answer(capsys, *request)
    assert (code, [failure["shard"] for failure in value["failed"]]) == (3, ["00003"])
    assert not edited.exists()
    partial.rmdir()
    assert answer(capsys, *request) == first
    assert edited.read_bytes() == content
