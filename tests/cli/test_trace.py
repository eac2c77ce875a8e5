"""`ecif trace`: from a test image to a table, a page and an answer; and requests that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ecif.cli import run
from tests.conftest import MakeTar
from tests.report.pages import Page
from tests.squares import SAMPLES, SHARDS, Corpus, lay_out, pairs
from tests.tiny import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def corpus(tmp_path: Path, model: tuple[Path, Path], make_tar: MakeTar) -> Corpus:
    """With a test image beside it."""
    laid_out = lay_out(tmp_path, model, make_tar)
    (tmp_path / "test.png").write_bytes(pairs(7, 1)[0][1])
    return laid_out


class Command:
    """`ecif trace` on a corpus; what it printed with --json."""

    def __init__(self, corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
        self.inputs = [*corpus.sources, *corpus.options()]
        self.image = ["--image", str(corpus.raw.parent / "test.png")]
        self.capsys = capsys

    def fit(self) -> None:
        assert run(["fit", *self.inputs]) == 0

    def __call__(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        self.capsys.readouterr()
        code = run(["trace", *self.inputs, *arguments, "--json"])
        return code, json.loads(self.capsys.readouterr().out)


@pytest.fixture
def command(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(corpus, capsys)


def test_from_an_image_to_a_table_and_a_page(corpus: Corpus, command: Command) -> None:
    command.fit()
    candidates = corpus.raw.parent / "candidates.txt"
    candidates.write_text("a red square\na green square\n", "utf-8")
    arguments = ("--text", "a blue square", "--candidates", str(candidates), "--top", "3", "--probes", "8")
    code, value = command(*command.image, *arguments)
    assert (code, value.get("error"), value["failed"], value["source"]) == (0, None, [], "pass")
    assert value["pairs"] == SHARDS * SAMPLES
    assert value["notes"] == ["--candidates does not hold the caption 'a blue square'; it was added."]
    (case,) = value["cases"]
    assert (case["name"], case["caption"], case["among"], case["competitors"]) == (
        "test.png",
        "a blue square",
        3,
        "candidates",
    )
    table = pl.read_parquet(value["table"])
    assert table.rows(named=True) == case["found"]
    assert table["side"].to_list() == ["responsible"] * 3 + ["supporting"] * 3
    assert table["rank"].to_list() == [1, 2, 3] * 2
    assert (table["influence"] < 0).to_list() == [True] * 3 + [False] * 3
    assert table["relative"].is_between(0, 1).all()
    assert table["caption"].str.ends_with(" square").all()
    page = Page(Path(value["page"]).read_bytes())
    assert len([1 for tag, _ in page.elements if tag == "img"]) == 7
    assert "does not hold the caption 'a blue square'" in page.text("ul")
    before = Path(value["page"]).read_bytes(), Path(value["table"]).read_bytes()
    again = command(*command.image, *arguments)[1]
    assert again == value
    assert (Path(again["page"]).read_bytes(), Path(again["table"]).read_bytes()) == before
    other = command(*command.image, "--text", "a red square", "--top", "3")[1]
    assert other["trace_key"] != value["trace_key"]
    assert other["cases"][0]["competitors"] == "validation"


def test_text_for_people(corpus: Corpus, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command.fit()
    capsys.readouterr()
    arguments = ["--text", "a red square", "--expected", "a blue square", "--rank-by", "l-relative", "--top", "500"]
    assert run(["trace", *command.inputs, *command.image, *arguments]) == 0
    printed = capsys.readouterr()
    assert "ordered by l-relative" in printed.out
    assert "test.png: the model says 'a " in printed.out
    assert "responsible: removing one of these lowers this loss" in printed.out
    assert "pair             caption" in printed.out
    assert "00000/000000000  a " in printed.out
    assert f"page: {corpus.out}/_ecif/trace/" in printed.out
    assert "--top 500 is lowered to 200" in printed.err
    assert "has 48 pairs that can be traced, fewer than --top 200" in printed.err


def test_a_tar_of_test_pairs(corpus: Corpus, command: Command, make_tar: MakeTar) -> None:
    command.fit()
    members = [*pairs(8, 2), ("bad.txt", b"no image here")]
    tar = corpus.raw.parent / "test.tar"
    tar.write_bytes(make_tar(members))
    code, value = command("--test-pairs", str(tar), "--top", "2", "--probes", "0")
    assert code == 0
    assert [case["name"] for case in value["cases"]] == ["000800000", "000800001"]
    assert value["notes"] == ["The test sample bad is left out: the sample has txt."]
    rows = [row for case in value["cases"] for row in case["found"]]
    assert [row["case"] for row in rows] == [0] * 4 + [1] * 4
    assert all(row["relative"] is None for row in rows)
    tar.write_bytes(make_tar(members[-1:]))
    code, value = command("--test-pairs", str(tar))
    assert (code, "holds no pair that can be used" in value["error"]) == (2, True)


def test_a_shard_that_is_cut_short_is_reported_and_the_others_are_traced(corpus: Corpus, command: Command) -> None:
    bad = corpus.raw / "00003.tar"
    bad.write_bytes(bad.read_bytes()[:2000])
    command.fit()
    code, value = command(*command.image, "--text", "a red square", "--probes", "0")
    assert (code, value["pairs"]) == (3, (SHARDS - 1) * SAMPLES)
    assert [item["shard"] for item in value["failed"]] == ["00003"]
    page = Page(Path(value["page"]).read_bytes())
    assert "1 shard could not be read" in page.text("ul")


def test_requests_that_are_refused(corpus: Corpus, command: Command, tmp_path: Path) -> None:
    code, value = command(*command.image, "--text", "a red square")
    assert (code, "run `ecif fit`" in value["error"]) == (2, True)
    command.fit()
    (tmp_path / "note.png").write_text("a note")
    text = ("--text", "a red square")
    for arguments, message in (
        ((), "--image and --text, or --test-pairs"),
        ((*command.image, *text, "--test-pairs", "x.tar"), "not both"),
        (("--test-pairs", "x.tar", "--expected", "a"), "--expected goes with"),
        (command.image, "every image needs one text"),
        ((*command.image, "--text", "  "), "the caption is empty"),
        ((*command.image, *text, "--top", "0"), "--top"),
        ((*command.image, *text, "--probes", "1"), "--probes"),
        ((*command.image, *text, "--rank-by", "relative", "--probes", "0"), "--probes"),
        ((*command.image, *text, "--rank-by", "length"), "rank-by"),
        ((*command.image, *text, "--candidates", str(tmp_path / "gone.txt")), "gone.txt"),
        (("--image", str(tmp_path / "note.png"), *text), "note.png"),
        (("--image", str(tmp_path / "gone.png"), *text), "gone.png"),
        ((*command.image, *text) * 65, "65 test pairs are too many"),
        # Another damping is another fit.
        ((*command.image, *text, "--damping", "3"), "run `ecif fit`"),
    ):
        code, value = command(*arguments)
        assert (code, message in value["error"]) == (2, True), (arguments, value["error"])
