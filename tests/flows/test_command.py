"""`ecif clean` as people and scripts call it: what it prints and how it ends."""

from __future__ import annotations

import json
import re

import pytest

from ecif.cli import run
from tests.squares import SAMPLES, SHARDS, Corpus


def test_text_names_the_outcome_the_shards_and_the_report(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["clean", *corpus.sources, *corpus.options(), "--drop", "0.25"]) == 0
    printed = capsys.readouterr()
    first, cut, *places, last = printed.out.splitlines()
    assert re.fullmatch(r"cut: clip_score beyond -?0\.\d+", cut)  # a hundred canaries do not fit into this corpus
    assert first.startswith(f"kept {3 * SAMPLES} of {SHARDS * SAMPLES} pairs in {SHARDS} shards, dropped {SAMPLES}")
    assert places == [f"shards: {corpus.out}", f"report: {corpus.out}/_ecif/report/index.html"]
    assert re.fullmatch(r"ecif [\w.]+, scores \w{12}, decision \w{12}, \d+ s( \(.+\))?", last)
    assert "score: 48 of 48 pairs" in printed.err
    assert "prefect" not in printed.err.lower()


def test_json_and_exit_code_3_when_a_shard_failed(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    bad = corpus.raw / "00001.tar"
    bad.write_bytes(b"no tar at all")
    assert run(["clean", *corpus.sources, *corpus.options(), "--drop", "0.25", "--json"]) == 3
    outcome = json.loads(capsys.readouterr().out)
    assert [failure["shard"] for failure in outcome["failed"]] == ["00001"]
    assert outcome["written"] == SHARDS - 1


def test_a_wrong_model_is_one_line_and_exit_code_2(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    corpus.values["pretrained"] = str(corpus.raw / "none.safetensors")
    assert run(["clean", *corpus.sources, *corpus.options(), "--json"]) == 2
    printed = capsys.readouterr()
    assert "none.safetensors" in json.loads(printed.out)["error"]
    assert printed.err.startswith("error: ")
    assert len(printed.err.splitlines()) == 1


def test_a_model_that_does_not_load_is_told_once(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    """Found inside a task: the flow fails, but neither Prefect's log nor a traceback reaches the terminal."""
    bad = corpus.raw / "weights.safetensors"
    bad.write_bytes(b"not weights")
    corpus.values["pretrained"] = str(bad)
    assert run(["clean", *corpus.sources, *corpus.options()]) == 2
    printed = capsys.readouterr()
    assert [line for line in printed.err.splitlines() if "Traceback" in line or "prefect" in line.lower()] == []
    assert printed.err.splitlines()[-1].startswith("error: --pretrained: ")
