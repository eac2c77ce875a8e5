"""The demo around the flow: what it refuses, how it reads an output back, what it prints."""

from __future__ import annotations

import io
import json
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from ecif.demo import run
from ecif.demo.corpus import Corpus
from ecif.errors import UsageError
from ecif.layout import Layout


def test_only_a_demos_directory_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="something else"):
        run.run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UsageError, match="not a directory"):
        run.run_demo(tmp_path / "thesis.tex")


def test_an_earlier_demo_is_replaced(tmp_path: Path) -> None:
    run._take_over(tmp_path, {"pairs": 1})
    (tmp_path / "cleaned").mkdir()
    (tmp_path / "weights.safetensors").touch()
    run._take_over(tmp_path, {"pairs": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["demo.json"]
    assert json.loads((tmp_path / "demo.json").read_text()) == {"pairs": 2}


@pytest.mark.parametrize("pairs", [0, 767, 20_001])
def test_sizes_out_of_range_are_refused(tmp_path: Path, pairs: int) -> None:
    with pytest.raises(UsageError, match="--pairs"):
        run.run_demo(tmp_path / "new", pairs=pairs)
    assert not (tmp_path / "new").exists()


def test_scores_ledgers_and_truth_become_a_verdict(small_corpus: Corpus, tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "cleaned"))
    truth = pl.read_parquet(small_corpus.truth)
    for (shard,), rows in truth.group_by("shard"):
        badness = pl.col("misaligned").cast(pl.Float32)
        scores = rows.select(
            "uid", status=pl.lit("ok"), influence=-badness, clip_score=badness, neg_clip_loss=0 * badness
        )
        _write(scores, layout.scores("key", str(shard)))
        _write(rows.filter(pl.col("kind") == "edit_word").select("uid"), layout.ledger(str(shard)))
    verdict = run._judge(small_corpus, layout.root, "key", None)
    assert verdict.auroc == {"influence": 1.0, "clip_score": 0.0, "neg_clip_loss": 0.5}
    assert [kind.found for kind in verdict.kinds] == [0, 0, 0, 16]

    outcome = run.DemoOutcome(
        pairs=400, kept=383, dropped=17, failed=[{"shard": "00009", "reason": "it [broke]"}], corpus="raw [1]",
        cleaned="clean", report="clean/index.html", losses=(2.0, 1.0), evaluation=verdict,
        rates={"score": 1234.5}, seconds={"train": 83.0, "total": 200.0},
    )  # fmt: skip
    text = io.StringIO()
    run.print_outcome(outcome, Console(file=text, width=160))
    for part in (
        "kept 383 of 400 pairs, dropped 17", "score 1,234 samples/s", "train 1:23 min, total 3:20 min",
        "failed: 00009: it [broke]", "corpus: raw [1]", "cleaned shards: clean\n", "report: clean/index.html",
    ):  # fmt: skip
        assert part in text.getvalue()
    assert json.loads(json.dumps(outcome.to_json()))["evaluation"]["kinds"][3]["found"] == 16


def _write(frame: pl.DataFrame, path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path)
