"""The images: an ordinary user, versions that are pinned, nothing that is fetched past the package index."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "infra" / "docker"
TEXT = (FOLDER / "Dockerfile").read_text("utf-8")
TARGETS = ("cpu", "cuda", "server")


@dataclass(frozen=True, slots=True)
class Line:
    """An instruction and all that follows it, continued lines joined."""

    instruction: str
    text: str


def _lines(text: str) -> list[Line]:
    kept = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(kept).replace("\\\n", " ")
    return [Line(*re.fullmatch(r"([A-Z]+)\s+(.*)", line.strip()).groups()) for line in joined.splitlines()]  # type: ignore[union-attr]


def _stages() -> dict[str, list[Line]]:
    """The lines of every stage, those of the stages that it is built on before its own."""
    found: dict[str, list[Line]] = {}
    current: list[Line] = []
    for line in _lines(TEXT):
        if line.instruction == "FROM":
            base, _, name = line.text.partition(" AS ")
            current = found[name] = list(found.get(base, []))
        current.append(line)
    return found


STAGES = _stages()


def _last(target: str, instruction: str) -> str:
    return [line.text for line in STAGES[target] if line.instruction == instruction][-1]


@pytest.mark.parametrize("target", TARGETS)
def test_it_runs_as_an_ordinary_user(target: str) -> None:
    assert _last(target, "USER") == "1001:1001"
    after = STAGES[target][max(n for n, line in enumerate(STAGES[target]) if line.instruction == "USER") :]
    changing = [line.text for line in after if line.instruction in ("COPY", "RUN") and "torch.version" not in line.text]
    assert changing == []


@pytest.mark.parametrize("target", TARGETS)
def test_it_says_whether_it_is_well(target: str) -> None:
    options, command = _last(target, "HEALTHCHECK").split("CMD", 1)
    assert {"--interval", "--timeout", "--start-period", "--retries"} == set(re.findall(r"--[a-z-]+", options))
    program = json.loads(command)
    assert program[:2] == ["python", "-c"]
    compile(program[2], "HEALTHCHECK", "exec")


def test_the_base_is_pinned_to_a_release_and_nothing_is_added_from_a_url() -> None:
    (image,) = re.findall(r"^ARG PYTHON_IMAGE=(.*)$", TEXT, re.M)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", image)
    assert [line for line in _lines(TEXT) if line.instruction == "ADD"] == []
    assert re.findall(r"https?://(?!127\.0\.0\.1)", TEXT) == []
    assert re.findall(r"\b(curl|wget|git clone)\b", TEXT) == []


def test_what_pip_installs_is_bounded_by_a_file() -> None:
    calls = re.findall(r"pip install ([^&;\n]*)", " ".join(line.text for line in _lines(TEXT)))
    assert len(calls) == 5
    bounded = ("-c constraints.txt", "-r build.txt", "-r torch.txt", "--no-deps --no-build-isolation")
    assert [call for call in calls if not any(bound in call for bound in bounded)] == []


def test_the_lists_beside_it_pin_what_constraints_do_not() -> None:
    pinned = {_name(line) for line in _requirements(ROOT / "constraints.txt")}
    loose = [
        line
        for name in ("build.txt", "server.txt")
        for line in _requirements(FOLDER / name)
        if _name(line) not in pinned and not re.fullmatch(r"[a-z-]+==[\d.]+", line)
    ]
    assert loose == []


def test_the_server_has_the_bounds_without_which_it_does_not_run() -> None:
    declared = {_name(line): line for line in _printed()}
    ours = {_name(line): line for line in _requirements(FOLDER / "server.txt")}
    (pin,) = [line for line in _requirements(ROOT / "constraints.txt") if _name(line) == "prefect"]
    assert ours.pop("prefect") == pin
    assert {name: line for name, line in ours.items() if name in declared} == {
        name: declared[name] for name in ("fastapi", "sqlalchemy", "uvicorn")
    }


def test_everything_that_is_copied_passes_the_filter_and_exists() -> None:
    rules = (FOLDER / "Dockerfile.dockerignore").read_text("utf-8").split("\n")
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert "*" in rules
    copied = {
        source
        for line in _lines(TEXT)
        if line.instruction == "COPY" and "--from" not in line.text
        for source in line.text.split()[:-1]
    }
    assert copied == let_in
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert [rule for rule in let_in if fnmatch(".env", rule) or fnmatch(".git", rule)] == []


def test_no_variable_holds_a_secret() -> None:
    named = [line.text for line in _lines(TEXT) if line.instruction in ("ENV", "ARG")]
    assert [text for text in named if re.search(r"SECRET|PASSWORD|TOKEN|AUTH|_KEY", text)] == []


def _requirements(path: Path) -> list[str]:
    return [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]


def _printed() -> list[str]:
    """What the image installs from pyproject.toml, by the script that it uses."""
    done = subprocess.run(
        [sys.executable, FOLDER / "requirements.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def _name(requirement: str) -> str:
    """The name of what is required."""
    return re.split(r"[\[=<>!~]", requirement, maxsplit=1)[0].lower()
