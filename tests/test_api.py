"""The Python API says and does what the command line does."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import ecif
from ecif import api
from ecif.cli import app, run
from ecif.errors import EcifError, UsageError
from ecif.results import Applied, Cleaned, Fitted, Planned, Rehearsed, Reported, Result, Scored
from tests.conftest import MakeTar
from tests.squares import SAMPLES, SHARDS, Corpus, files, lay_out
from tests.tiny import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def corpus(tmp_path: Path, model: tuple[Path, Path], make_tar: MakeTar) -> Corpus:
    return lay_out(tmp_path, model, make_tar)


def test_stage_by_stage_as_the_command_line_does_it(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    values, out = corpus.values, corpus.out
    assert isinstance(ecif.score(*corpus.sources, **values, dry_run=True), Rehearsed)
    assert not out.exists()
    found: list[Result] = [
        ecif.fit(*corpus.sources, **values),
        ecif.score(*corpus.sources, **values),
        ecif.plan(out, drop=0.25),
        ecif.apply(out),
        ecif.verify(out),
        api.report(out),
    ]
    fit, _, plan, apply, verify, report = found
    assert [type(one) for one in found] == [Fitted, Scored, Planned, Applied, Result, Reported]
    assert isinstance(plan, Planned)
    assert isinstance(apply, Applied)
    assert (plan.n_dropped, apply.dropped, apply.written, verify.facts["ok"]) == (SAMPLES, SAMPLES, SHARDS, True)
    # The command line finds everything done, by the same keys.
    before = files(out)
    inputs = [*corpus.sources, *corpus.options()]
    for result, arguments in (
        (fit, ["fit", *inputs]),
        (plan, ["plan", str(out), "--drop", "0.25"]),
        (verify, ["verify", str(out)]),
        (report, ["report", str(out)]),
    ):
        capsys.readouterr()
        assert run([*arguments, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(dict(result.facts), default=str))
        assert run(arguments) == 0
        assert capsys.readouterr().out.strip() == result.text
    assert files(out) == before
    restored = ecif.restore(out, everything=True)
    assert restored.facts["restored"] == SAMPLES
    assert ecif.lint(corpus.raw).facts["samples"] == SHARDS * SAMPLES


def test_clean_in_one_call_and_again(corpus: Corpus) -> None:
    cleaned = ecif.clean(*corpus.sources, **corpus.values, drop=0.25)
    assert isinstance(cleaned, Cleaned)
    assert cleaned.plan is not None
    assert cleaned.apply is not None
    assert (cleaned.plan.n_dropped, cleaned.apply.kept, cleaned.failed) == (SAMPLES, (SHARDS - 1) * SAMPLES, [])
    assert ecif.verify(corpus.out).facts["ok"]
    before = files(corpus.out)
    again = ecif.clean(*corpus.sources, **corpus.values, drop=0.25)
    assert again.apply is not None
    assert again.apply.written_before == SHARDS
    assert files(corpus.out) == before


def test_clean_without_a_policy_scores_and_reports(corpus: Corpus) -> None:
    cleaned = ecif.clean(*corpus.sources, **corpus.values)
    assert (cleaned.plan, cleaned.apply) == (None, None)
    assert cleaned.report is not None
    assert Path(cleaned.report.report).is_file()
    assert list(corpus.out.glob("*.tar")) == []


def test_clean_goes_on_without_a_broken_shard(corpus: Corpus) -> None:
    bad = corpus.raw / "00003.tar"
    bad.write_bytes(bad.read_bytes()[:2000])
    cleaned = ecif.clean(*corpus.sources, **corpus.values, drop=0.25)
    assert [(item["shard"], item["passing"]) for item in cleaned.failed] == [("00003", False)]
    assert cleaned.apply is not None
    assert (cleaned.apply.written, cleaned.apply.without_scores) == (SHARDS - 1, 1)


def test_scores_as_one_lazy_table(corpus: Corpus) -> None:
    with pytest.raises(UsageError, match="run score first"):
        ecif.load_scores(corpus.out)
    ecif.fit(*corpus.sources, **corpus.values)
    scored = ecif.score(*corpus.sources, **corpus.values)
    assert isinstance(scored, Scored)
    tables = sorted(Path(scored.scores).glob("*.parquet"))
    whole = pl.concat([pl.read_parquet(table) for table in tables])
    lazy = ecif.load_scores(corpus.out)
    assert isinstance(lazy, pl.LazyFrame)
    assert lazy.collect().equals(whole)
    assert lazy.head(SAMPLES + 3).collect().equals(whole.head(SAMPLES + 3))
    worst = pl.col("clip_score") < whole["clip_score"].median()
    assert lazy.filter(worst).select("uid").collect().equals(whole.filter(worst).select("uid"))
    assert lazy.filter(worst).select("uid").head(2).collect().equals(whole.filter(worst).select("uid").head(2))
    assert lazy.select(pl.len()).collect().item() == whole.height
    with pytest.raises(UsageError, match="no table of the scores other"):
        ecif.load_scores(corpus.out, scores="other")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ecif.score(), "no sources"),
        (lambda: ecif.plan("nowhere"), "a decision needs a policy"),
        (lambda: ecif.plan("nowhere", drop=2), r"--drop: a fraction lies in \[0, 1\]"),
        (lambda: ecif.plan("nowhere", dorp=0.1), "no setting 'dorp' here. Did you mean 'drop'?"),
        (lambda: ecif.score("x.tar", drop=0.1), "no setting 'drop' here"),
        (lambda: ecif.clean("x.tar", trainable="some"), "--trainable: 'some'"),
        (lambda: ecif.load_scores("nowhere", patienc=1), "Did you mean 'patience'?"),
        (lambda: ecif.apply("nowhere"), "holds no decision"),
    ],
)
def test_errors_are_those_of_the_command_line(
    call: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EcifError, match=message):
        call()
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_file_and_the_environment_count(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ecif.clean(*corpus.sources, **corpus.values)
    config = tmp_path / "settings.yaml"
    config.write_text("drop: 0.25\n", "utf-8")
    assert ecif.plan(corpus.out, config=config, dry_run=True).facts["answer"]["n_dropped"] == SAMPLES
    monkeypatch.setenv("ECIF_DROP", "0.5")
    assert ecif.plan(corpus.out, dry_run=True).facts["answer"]["n_dropped"] == 2 * SAMPLES
    assert ecif.clean(*corpus.sources, **corpus.values, dry_run=True).would[2]["stage"] == "plan"


def test_results_show_well() -> None:
    result = Result.of("kept 1 < 2", {"out": "a<script>", "kept": 12_345, "failed": [1], "share": 0.25, "cut": None})
    assert repr(result) == "Result: kept 1 < 2"
    page = result._repr_html_()
    assert "kept 1 &lt; 2" in page
    assert "<td style='text-align:left'>12,345</td>" in page
    assert "a&lt;script&gt;" in page
    assert "failed" not in page
    with pytest.raises(KeyError):
        Planned.of("", {})


def test_the_names_are_those_of_commands() -> None:
    functions = {name: value for name, value in vars(api).items() if inspect.isfunction(value)}
    ours = {name for name, value in functions.items() if value.__module__ == "ecif.api" and name[0] != "_"}
    assert ours == {*ecif._API, "report"}
    assert {*ecif._API, "report"} - {"load_scores"} <= set(app)
    assert {*ecif._API, "report"} <= set(dir(ecif))
    with pytest.raises(AttributeError, match="no attribute 'wash'"):
        ecif.wash  # noqa: B018


def test_the_room_report_can_be_called_before_and_after_it_is_imported() -> None:
    code = """
import ecif
for _ in range(2):
    try:
        ecif.report("nowhere")
    except ecif.errors.EcifError as error:
        print(error)
    from ecif.report import build_report
    import ecif.report
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("holds no inventory") == 2
