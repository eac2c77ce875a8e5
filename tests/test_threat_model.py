"""docs/threat-model.md names tests; they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "threat-model.md").read_text("utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_the_test_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_threat_has_an_answer_and_a_test() -> None:
    rows = [line for line in PAGE.split("## Threats")[1].split("## To be done")[0].splitlines() if line[:2] == "| "]
    threats = [row for row in rows if not row.startswith("| threat |")]
    assert threats
    for row in threats:
        _, threat, answer, shown, _ = (cell.strip() for cell in row.split("|"))
        assert threat
        assert answer
        assert re.search(r"`tests/[\w/]+\.py::\w+`", shown), threat
