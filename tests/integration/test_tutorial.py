"""The tutorial does what it says: its commands, in their order, each with the exit code 0."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ecif.cli import run

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "tutorial.md"

pytestmark = pytest.mark.integration


def test_the_commands_of_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text("utf-8")
    (settings,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "tutorial.yaml").write_text(settings, "utf-8")
    lines = [shlex.split(line) for line in re.findall(r"^    (ecif .*)$", text, flags=re.MULTILINE)]
    assert len(lines) >= 14
    for _, *arguments in lines:
        assert run(arguments) == 0, arguments
    out = tmp_path / "tutorial" / "clean"
    assert (out / "_ecif" / "report" / "index.html").is_file()
    assert (tmp_path / "tutorial" / "left.npy").is_file()
    assert {"00000.tar", "sizes.json", "wids.json"} <= {path.name for path in out.iterdir()}
    assert list(out.glob("restored-*/00000.tar"))
