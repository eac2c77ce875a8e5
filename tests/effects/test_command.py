"""`ecif bench effects` on a tiny corpus: what it trains, keeps, takes up again, says and refuses."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ecif.cli import run
from ecif.layout import Layout
from tests.effects.conftest import SCORES, Scored

COMPARE = ("--compare", "clip_score", "--compare", "influence")


def _answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run([*arguments, "--json"]) == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def _without_seconds(results: dict[str, bytes]) -> dict[str, Any]:
    return {name: {**json.loads(data), "seconds": 0} for name, data in results.items()}


def test_every_variant_is_trained_with_every_seed(scored: Scored, capsys: pytest.CaptureFixture[str]) -> None:
    value = _answer(capsys, *scored.arguments(*COMPARE))
    cells = [json.loads(data) for data in scored.results().values()]
    variants = ["as is", "random subset", "clip_score", "influence"]
    assert [(cell["seed"], cell["variant"]) for cell in cells] == sorted(
        (seed, name) for seed in (1, 2) for name in variants
    )
    # One of 160 has no score; a fourth of 159 is 39; all take the steps of 159 pairs in batches of 40.
    assert {(cell["variant"], cell["pairs"]) for cell in cells} == {
        ("as is", 159), *((name, 120) for name in variants[1:])
    }  # fmt: skip
    assert {cell["steps"] for cell in cells} == {3}
    assert {cell["judged_by"] for cell in cells} == {30}
    shown = [row for row in value["rows"] if row["measure"] == "image->text R@5"]
    assert [row["variant"] for row in shown] == variants
    by_name = {row["variant"]: row for row in shown}
    for row in shown:
        of = [cell["measures"]["image->text R@5"] for cell in cells if cell["variant"] == row["variant"]]
        assert row["values"] == of
        assert row["mean"][0] == pytest.approx(sum(of) / 2, abs=1e-6)
        assert (row["less_as_is"] is None) == (row["variant"] == "as is")
        less = sum(a - b for a, b in zip(of, by_name["random subset"]["values"], strict=True)) / 2
        assert (row["less_random"] or [0.0])[0] == pytest.approx(less, abs=1e-6)
    table = pl.read_csv(value["table"])
    assert table.height == len(value["rows"]) == 4 * len(variants)


def test_what_is_there_is_not_trained_again(scored: Scored, capsys: pytest.CaptureFixture[str]) -> None:
    first = _answer(capsys, *scored.arguments("--compare", "clip_score"))
    kept = scored.results()
    again = _answer(capsys, *scored.arguments("--compare", "clip_score"))
    assert again == first
    assert scored.results() == kept
    # One result lost, one seed and one score more: only these are made, and the lost one is what it was.
    lost = scored.out / "_ecif" / "effects" / first["effects_key"] / next(name for name in kept if "clip" in name)
    lost.unlink()
    _answer(capsys, *scored.arguments(*COMPARE, "--seeds", "3"))
    more = scored.results()
    assert len(more) == 12
    assert {name: more[name] for name in kept if name != lost.name} == {n: d for n, d in kept.items() if n != lost.name}
    assert _without_seconds(more).items() >= _without_seconds(kept).items()


def test_the_same_study_elsewhere_gives_the_same_numbers(
    scored: Scored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(scored.out, elsewhere)
    first = _answer(capsys, *scored.arguments("--compare", "influence"))
    arguments = [str(elsewhere) if word == str(scored.out) else word for word in scored.arguments()]
    second = _answer(capsys, *arguments, "--compare", "influence")
    assert second["rows"] == first["rows"]
    values = {tuple(row["values"]) for row in first["rows"] if row["measure"] == "image->text R@5"}
    assert len(values) > 1


def test_a_dry_run_counts_what_is_left_and_writes_nothing(scored: Scored, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(scored.out.rglob("*"))
    assert run(scored.arguments("--compare", "clip_score", "--dry-run")) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "6 of 6 models, 3 steps each, of as is, random subset, clip_score" in shown
    assert "reads 2 shards" in shown
    assert set(scored.out.rglob("*")) == before


def test_people_see_a_table_for_each_measure(
    scored: Scored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, to = tmp_path / "prompts.json", tmp_path / "table.json"
    captions = _captions(scored.judge)
    prompts.write_text(json.dumps({"label": "caption", "classes": {caption: [caption] for caption in captions[:5]}}))
    more = ("--compare", "clip_score", "--prompts", str(prompts), "--to", str(to))
    assert run(scored.arguments(*more)) == 0
    shown = capsys.readouterr().out
    for title in ("zero-shot accuracy", "image->text R@1", "text->image R@5", "less random subset"):
        assert title in shown
    assert "…" not in shown  # a number that is cut off is no number
    assert "the same 3 steps of 40 pairs; judged by 30 pairs" in " ".join(shown.split())
    assert "not about another corpus" in shown
    assert json.loads(to.read_text())["steps"] == 3


def _captions(tar: Path) -> list[str]:
    with tarfile.open(tar) as opened:
        return [opened.extractfile(i).read().decode() for i in opened if i.name.endswith(".txt")]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (["--drop", "0.001"], "none of 159 pairs"),
        (["--drop", "1"], "all of 159 pairs"),
        (["--drop", "0.8"], "--batch-size 40: the 32 pairs that stay do not fill one batch"),
        (["--seeds", "1"], "two are needed"),
        (["--epochs", "0"], "--epochs and --learning-rate are above 0"),
        (["--compare", "clip_scor"], "Did you mean 'clip_score'?"),
        (["--compare", "lemon"], "score again with --columns lemon"),
        (["--compare", "p_misaligned"], "canaries"),
        (["--to", "table.txt"], "neither .csv nor .json"),
        (["--scores", "abc"], "holds no scores abc"),
    ],
)
def test_what_cannot_be_studied_is_refused(
    scored: Scored, change: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [] if "--compare" in change else ["--compare", "clip_score"]
    assert run(scored.arguments(*base, *change)) == 2
    assert problem in capsys.readouterr().err
    assert scored.results() == {}


def test_what_is_needed_is_asked_for(scored: Scored, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "effects", str(scored.out), "--drop", "0.1"]) == 2
    assert "--evaluation is needed" in capsys.readouterr().err
    assert run(["bench", "effects", str(scored.out), "--evaluation", str(scored.judge)]) == 2
    assert "--drop is needed" in capsys.readouterr().err
    shutil.rmtree(scored.out / "_ecif" / "scores")
    assert run(scored.arguments()) == 2
    assert "run score first" in capsys.readouterr().err


def test_a_model_is_not_judged_by_what_it_was_trained_on(scored: Scored, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(scored.made.shards[0], scored.judge)
    assert run(scored.arguments("--compare", "clip_score")) == 2
    error = capsys.readouterr().err
    assert "images are in the corpus, too" in error
    assert scored.results() == {}


def test_a_corpus_that_changed_is_noticed(scored: Scored, capsys: pytest.CaptureFixture[str]) -> None:
    table = Path(Layout(str(scored.out)).scores(SCORES, "00001"))
    pl.read_parquet(table).with_columns(uid=pl.col("uid").reverse()).write_parquet(table)
    assert run(scored.arguments("--compare", "clip_score")) == 2
    assert "no longer hold the pairs that were scored" in capsys.readouterr().err


def test_influence_that_was_measured_on_the_judges_is_said(scored: Scored, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from safetensors.torch import save_file

    from ecif.stages.spool import image_digest

    with tarfile.open(scored.judge) as opened:
        images = [opened.extractfile(i).read() for i in opened if i.name.endswith(".jpg")]  # type: ignore[union-attr]
    digests = torch.tensor([list(image_digest(image)) for image in images[:7]], dtype=torch.uint8)
    target = Path(Layout(str(scored.out)).validation("f" * 12))
    target.parent.mkdir(parents=True)
    save_file({"digests": digests}, target)
    value = _answer(capsys, *scored.arguments("--compare", "influence"))
    assert any(remark.startswith("7 of the evaluation images are in the validation set") for remark in value["remarks"])
