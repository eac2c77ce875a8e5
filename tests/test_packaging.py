"""What is imported is declared, what is declared is pinned, and what is pinned is what the tests run with."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OWN = {"ecif", "flows", "tasks", "tests", "bench", "docs", "infra"}


def _name(requirement: str) -> str:
    """The normalised name of a requirement."""
    name = re.match(r"[\w.-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


# Runs in an environment of its own, which holds the libraries that we are compared with.
PEERS = ROOT / "bench" / "peers"
RUN_TIME = {_name(requirement) for requirement in PROJECT["dependencies"]}
# Imported only where it is asked for, with an error that names the extra.
OPTIONAL = {_name(requirement) for requirement in PROJECT["optional-dependencies"]["dask"]}
DOCUMENTATION = {_name(requirement) for requirement in PROJECT["optional-dependencies"]["docs"]}
DEVELOPMENT = RUN_TIME | {_name(requirement) for requirement in PROJECT["optional-dependencies"]["dev"]}
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line[:1] not in ("", "#")
)


def _imported(folders: Iterable[str]) -> set[str]:
    """Top-level names of other people's packages that these folders import."""
    names = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            if path.is_relative_to(PEERS):
                continue
            for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
                if isinstance(node, ast.Import):
                    names |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names.add(node.module.split(".")[0])
    return names - OWN - sys.stdlib_module_names


@pytest.mark.parametrize(
    ("folders", "declared"),
    [(("ecif", "flows", "tasks"), RUN_TIME | OPTIONAL), (("bench", "docs", "tests"), DEVELOPMENT)],
    ids=["run time", "development"],
)
def test_every_import_is_a_declared_dependency(folders: tuple[str, ...], declared: set[str]) -> None:
    distributions = metadata.packages_distributions()
    undeclared = {
        name for name in _imported(folders) if declared.isdisjoint(map(_name, distributions.get(name, [name])))
    }
    assert undeclared == set()


def test_every_dependency_is_pinned() -> None:
    assert set(PINS) >= DEVELOPMENT | DOCUMENTATION


def test_the_pins_are_what_runs() -> None:
    """A CPU build of torch carries a local version (`+cpu`), which the pin leaves open."""
    other = {name: metadata.version(name) for name in DEVELOPMENT}
    assert {name: version.split("+")[0] for name, version in other.items()} == {name: PINS[name] for name in other}


def test_constraints_name_neither_index_nor_url() -> None:
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", f"{name}=={version}") for name, version in PINS.items())


def test_the_command_and_its_orchestration_are_installed_names() -> None:
    """Entry points are strings: only loading them tells that they lead somewhere."""
    groups = {"console_scripts": PROJECT["scripts"], **PROJECT["entry-points"]}
    for group, entries in groups.items():
        for name, value in entries.items():
            assert callable(metadata.EntryPoint(name, value, group).load())
