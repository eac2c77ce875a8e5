"""The command line without a server: stages one by one, exit codes, JSON, configuration files."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App

import ecif
from ecif import cli
from ecif.cli import app, commands, run
from tests.conftest import MakeTar
from tests.squares import SAMPLES, SHARDS, Corpus, files, lay_out
from tests.tiny import write_model

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def corpus(tmp_path: Path, model: tuple[Path, Path], make_tar: MakeTar) -> Corpus:
    return lay_out(tmp_path, model, make_tar)


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Any:
    """`answer(*arguments)` runs a command with --json and gives its exit code and document."""

    def call(*arguments: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = run([*arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return call


def test_stage_by_stage_and_every_stage_again(corpus: Corpus, answer: Any) -> None:
    inputs, out = [*corpus.sources, *corpus.options()], str(corpus.out)
    results: list[list[dict[str, Any]]] = []
    for attempt in range(2):
        before = files(corpus.out) if attempt else {}
        found = []
        for arguments in (
            ["fit", *inputs],
            ["score", *inputs],
            ["plan", out, "--drop", "0.25"],
            ["apply", out],
            ["verify", out],
            ["report", out],
        ):
            code, value = answer(*arguments)
            assert (code, value.get("error")) == (0, None)
            found.append(value)
        results.append(found)
        if attempt:
            assert files(corpus.out) == before
    fit, score, plan, apply, verify, report = results[0]
    assert Path(fit["direction"]).is_file()
    assert (score["shards"], score["failed"]) == (SHARDS, [])
    assert (plan["n_dropped"], plan["n_ok"], plan["score_key"]) == (SAMPLES, SHARDS * SAMPLES, score["score_key"])
    assert (apply["written"], apply["dropped"], apply["kept"]) == (SHARDS, SAMPLES, (SHARDS - 1) * SAMPLES)
    assert (verify["ok"], verify["shards"], verify["dropped"]) == (True, SHARDS, SAMPLES)
    assert (Path(report["report"]).is_file(), report["decision_key"]) == (True, plan["key"])
    assert (results[1][3]["written"], results[1][3]["written_before"]) == (0, SHARDS)
    page = Path(report["report"])
    whole = page.read_text().count("data:image/")
    assert answer("report", out, "--pairs", "1")[0] == 0
    assert 0 < page.read_text().count("data:image/") < whole
    code, value = answer("report", out, "--pairs", "201")
    assert (code, "a page shows 1 to 200 pairs" in value["error"]) == (2, True)


def test_text_says_what_came_out(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", *corpus.sources, *corpus.options()]) == 0
    assert run(["score", *corpus.sources, *corpus.options()]) == 0
    printed = capsys.readouterr()
    assert "4 shards scored, 48 pairs by this run: " in printed.out
    assert "score: 48 of 48 pairs" in printed.err
    assert "score: 48" not in printed.out


def test_a_shard_that_cannot_be_scored_gives_exit_code_3(corpus: Corpus, answer: Any) -> None:
    bad = corpus.raw / "00003.tar"
    bad.write_bytes(bad.read_bytes()[:2000])
    inputs, out = [*corpus.sources, *corpus.options()], str(corpus.out)
    assert answer("fit", *inputs)[0] == 0
    code, value = answer("score", *inputs)
    assert (code, value["shards"]) == (3, SHARDS - 1)
    assert [(failure["shard"], failure["passing"]) for failure in value["failed"]] == [("00003", False)]
    code, value = answer("plan", out, "--drop", "0.25")
    assert code == 2
    assert "00003" in value["error"]
    code, value = answer("plan", out, "--drop", "0.25", "--without", "00003")
    assert (code, value["shards"]) == (0, SHARDS - 1)
    code, value = answer("apply", out)
    assert (code, value["written"], value["without_scores"]) == (0, SHARDS - 1, 1)
    code, value = answer("verify", out)
    assert (code, [found["shard"] for found in value["violations"]]) == (4, ["00003"])


def test_verify_finds_a_changed_byte_and_ends_with_4(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    inputs, out = [*corpus.sources, *corpus.options()], str(corpus.out)
    for arguments in (["fit", *inputs], ["score", *inputs], ["plan", out, "--drop", "0.25"], ["apply", out]):
        assert run(arguments) == 0
    tar = corpus.out / "00001.tar"
    content = bytearray(tar.read_bytes())
    content[700] ^= 1
    tar.write_bytes(content)
    capsys.readouterr()
    assert run(["verify", out]) == 4
    assert "00001" in capsys.readouterr().out


def test_lint_ends_with_4_on_errors_only(corpus: Corpus, answer: Any) -> None:
    code, value = answer("lint", *corpus.sources)
    assert (code, value["errors"], value["samples"]) == (0, 0, SHARDS * SAMPLES)
    (corpus.raw / "00002.tar").write_bytes(b"no tar at all")
    code, value = answer("lint", *corpus.sources)
    assert code == 4
    assert value["errors"] >= 1
    assert any(finding["url"].endswith("00002.tar") for finding in value["findings"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clean"], "no sources"),
        (["clean", "x.tar", "--drop", "2"], "--drop: a fraction lies in [0, 1]"),
        (["clean", "x.tar", "--drop", "0.1", "--threshold", "3"], "one policy"),
        (["clean", "x.tar", "--trainable", "some"], "--trainable: 'some'"),
        (["clean", "x.tar", "--bogus"], "--bogus"),
        (["clean", "x.tar", "--unscored", "perhaps"], "--unscored"),
        (["score", "x.tar", "--drop", "0.1"], "--drop"),
        (["plan", "nowhere"], "needs a policy"),
        (["apply", "nowhere"], "holds no decision"),
        (["verify", "nowhere"], "holds no inventory"),
        (["lint", "nowhere.tar"], "nowhere.tar"),
        (["lint", "pipe:cat x.tar"], "pipe"),
        (["lint", "x.tar", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["demo", "--pairs", "3"], "--pairs"),
        (["wash"], "wash"),
    ],
)
def test_a_refused_request_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert run([*arguments, "--json"]) == 2
    assert message in json.loads(capsys.readouterr().out)["error"]
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_file_sets_what_the_command_line_does_not(
    corpus: Corpus, tmp_path: Path, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, out = [*corpus.sources, *corpus.options()], str(corpus.out)
    for arguments in (["fit", *inputs], ["score", *inputs]):
        assert run(arguments) == 0
    config = tmp_path / "settings.yaml"
    config.write_text(f"drop: 0.25\nbatch-size: 6\nsources: {corpus.raw}\n", "utf-8")
    assert answer("plan", out, "--config", str(config))[1]["n_dropped"] == SAMPLES
    monkeypatch.setenv("ECIF_DROP", "0.5")
    assert answer("plan", out, "--config", str(config))[1]["n_dropped"] == 2 * SAMPLES
    assert answer("plan", out, "--config", str(config), "--drop", "0.75")[1]["n_dropped"] == 3 * SAMPLES
    monkeypatch.delenv("ECIF_DROP")
    assert answer("lint", "--config", str(config))[1]["shards"] == SHARDS
    config.write_text("dorp: 0.25\n", "utf-8")
    code, value = answer("plan", out, "--config", str(config))
    assert (code, "dorp" in value["error"]) == (2, True)


def test_an_unexpected_error_shows_its_traceback_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("ecif.sources.expand", broken)
    assert run(["lint", "x.tar"]) == 1
    printed = capsys.readouterr()
    assert "Traceback" in printed.err
    assert printed.err.splitlines()[-1] == "error: unexpected ZeroDivisionError: by zero"


SECRET = "s3cr3t/Value+Of-Somebody"


@pytest.mark.parametrize(
    "given",
    [
        json.dumps({"key": "someone", "secret": SECRET}),
        json.dumps({"key": "someone", "secret": SECRET})[:-1],
        json.dumps([SECRET]),
        SECRET,
    ],
)
@pytest.mark.parametrize("joined", [False, True])
def test_a_secret_that_was_typed_is_never_printed(
    given: str, joined: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise ValueError(f"an answer that quotes {SECRET} and {given}")

    monkeypatch.setattr("ecif.cli.lint.expand", broken, raising=False)
    monkeypatch.setattr("ecif.sources.expand", broken)
    option = [f"--storage-options={given}"] if joined else ["--storage-options", given]
    assert run(["lint", "x.tar", *option, "--json"]) in (1, 2)
    printed = capsys.readouterr()
    assert printed.err.startswith(("error:", "Traceback"))
    assert SECRET not in printed.err + printed.out
    assert json.dumps(SECRET)[1:-1] not in printed.err + printed.out


def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ecif.sources.expand", interrupted)
    assert run(["lint", "x.tar"]) == 130
    assert capsys.readouterr().err.startswith("error: interrupted")


def test_help_lists_every_command_in_the_order_of_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    names = ["demo", "clean", "lint", "fit", "score", "calibrate", "plan", "diff", "apply"]
    names += ["verify", "report", "restore", "export", "trace", "edit", "watch", "notify", "poll", "doctor", "bench"]
    assert [name for name in app if not name.startswith("-")] == names
    assert all(f" {name} " in text for name in names)


def test_the_list_of_commands_says_what_the_commands_say() -> None:
    """It is written down, so that it takes none of their modules; here is what keeps the two alike."""
    for name, path, line in cli._COMMANDS:
        module, _, found = path.partition(":")
        command = getattr(import_module(f"ecif.cli.{module}"), found)
        said = command.help if isinstance(command, App) else (inspect.getdoc(command) or "").partition("\n")[0]
        assert (name, line) == (command.name[0] if isinstance(command, App) else command.__name__, said)


def test_the_list_of_commands_takes_no_settings() -> None:
    code = "import sys; from ecif.cli import run; run(['--help']); print({'pydantic', 'yaml'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.rstrip().endswith("set()")


@pytest.mark.parametrize("command", list(commands()))
def test_every_option_is_explained(command: str) -> None:
    for argument in commands()[command].assemble_argument_collection():
        if argument.show and argument.names and argument.names != ("*",):
            assert argument.parameter.help, argument.names


def test_the_program_ends_with_the_exit_code_and_keeps_stdout_clean() -> None:
    code = "from ecif.cli import main; main()"
    refused = subprocess.run(
        [sys.executable, "-c", code, "verify", "nowhere"], cwd=ROOT, capture_output=True, text=True
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    version = subprocess.run([sys.executable, "-c", code, "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (version.returncode, version.stdout) == (0, f"ecif {ecif.__version__}\n")
