"""Manners of the command line: examples, completion, suggestions, colours."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ecif.cli import app, commands, examples, run

ROOT = Path(__file__).resolve().parent.parent.parent
COMMANDS = list(commands())


def test_every_command_has_examples() -> None:
    assert list(examples.EXAMPLES) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_are_commands_that_can_be_typed(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _, line in examples.EXAMPLES[command]:
        program, *arguments = shlex.split(line.replace("\\\n", " "))
        assert program == "ecif"
        assert arguments[: len(command.split())] == command.split()
        app.parse_args(arguments, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_them(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out.partition("Examples:")[2]
    lines = [line.strip() for line in shown.splitlines() if line.strip()]
    assert lines == [line.strip() for line in examples.lines(command).splitlines() if line]


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["clena", "x.tar"], '"clean"'),
        (["clean", "x.tar", "--drpo", "0.1"], "--drop?"),
        (["score", "x.tar", "--drop", "0.1"], "--drop is an option of clean, plan"),
        (["plan", "x", "--dropped", "quarantin"], "Did you mean 'quarantine'?"),
        (["clean", "x.tar", "--trainable", "haeds"], "Did you mean 'heads'?"),
        (["clean", "x.tar", "--columns", "tarcin"], "Did you mean 'tracin'?"),
        (["trace", "x.tar", "--rank-by", "influnce"], '"influence"?'),
    ],
)
def test_the_nearest_word_is_suggested(
    arguments: list[str], suggestion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert suggestion in capsys.readouterr().err


def test_what_is_near_nothing_is_not_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["clean", "x.tar", "--columns", "weather"]) == 2
    assert "Did you mean" not in capsys.readouterr().err


def test_a_setting_of_a_file_is_suggested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clean.yaml").write_text("bacth_size: 3\n", "utf-8")
    assert run(["lint", "x.tar", "--config", str(tmp_path / "clean.yaml")]) == 2
    assert "Did you mean 'batch_size'?" in capsys.readouterr().err


def test_bash_completes_commands_options_and_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    script = tmp_path / "ecif.bash"
    assert run(["--install-completion", "--shell", "bash", "--output", str(script)]) == 0
    assert list(home.iterdir()) == []
    ask = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _ecif; echo "${COMPREPLY[@]}"
"""

    def completed(*words: str) -> list[str]:
        asked = ["bash", "-c", ask, "bash", str(script), *words]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()

    assert completed("ecif", "pl") == ["plan"]
    assert set(completed("ecif", "")) >= {command.split()[0] for command in COMMANDS}
    assert "--dry-run" in completed("ecif", "plan", "/x", "--d")
    assert completed("ecif", "plan", "/x", "--dropped", "") == ["drop", "quarantine"]


@pytest.mark.parametrize(
    ("environment", "coloured"), [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False)]
)
def test_colours_in_a_terminal_only_where_they_are_wanted(environment: dict[str, str], coloured: bool) -> None:
    inside, outside = pty.openpty()
    base = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    code = "from ecif.cli import run; run(['verify', 'nowhere']); run(['apply', '--help'])"
    with os.fdopen(inside, "rb", buffering=0) as reader:
        done = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, env=base | environment, stdout=outside, stderr=outside
        )
        os.close(outside)
        shown = b""
        try:
            while block := reader.read(4096):
                shown += block
        except OSError:  # Linux says so that the other side is closed
            pass
        assert done.wait() == 0
    assert b"error:" in shown
    # Bold is no colour.
    colours = [
        code for code in re.findall(rb"\x1b\[([\d;]*)m", shown) if re.search(rb"\b(3[0-7]|9[0-7]|4[0-7])\b", code)
    ]
    assert bool(colours) == coloured


def test_no_colours_in_a_pipe() -> None:
    code = "from ecif.cli import run; run(['verify', 'nowhere']); run(['apply', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "error: " in done.stderr
    assert "\x1b" not in done.stderr + done.stdout
