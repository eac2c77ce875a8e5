"""The example notebook runs from its first cell to its last, in a directory of its own, and holds no output."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "examples" / "clean_a_corpus.ipynb"
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]


def _run(source: str, names: dict[str, Any]) -> Any:
    """Execute a cell as a notebook does; returns the value of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    return (
        eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names) if isinstance(last, ast.Expr) else None
    )


def test_it_runs_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = [_run("".join(cell["source"]), names) for cell in CELLS if cell["cell_type"] == "code"]
    assert sum(hasattr(value, "_repr_html_") and bool(value._repr_html_()) for value in shown) >= 8
    assert names["proof"].facts["ok"]
    assert names["applied"].dropped == names["planned"].n_dropped == 96
    # Better than a blind choice, of which 16 % would be wrong captions.
    assert names["right"].collect().item() > 0.16
    assert Path(names["page"].report).is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"clean-a-corpus"}


def test_it_holds_no_output() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS if "outputs" in cell)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
