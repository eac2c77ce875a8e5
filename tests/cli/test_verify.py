"""`ecif verify`: by the records of an output, and by its sources alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ecif.cli import run
from tests.stages.test_verify_forms import make


def test_by_its_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = make(tmp_path, "restored")
    root = output.layout.root
    assert run(["verify", root]) == 0
    head = "2 shards, 9 samples: kept 4, dropped 4, quarantined 1, restored 4; all proved"
    assert capsys.readouterr().out.strip() == head
    Path(output.layout.tar("00000")).write_bytes(b"")
    assert run(["verify", root, "--json"]) == 4
    value = json.loads(capsys.readouterr().out)
    assert (value["ok"], {one["shard"] for one in value["violations"]}) == (False, {"00000"})


def test_by_its_sources_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = make(tmp_path, "plain")
    root, sources = output.layout.root, str(tmp_path / "in")
    shutil.rmtree(Path(root) / "_ecif")
    assert run(["verify", root]) == 2
    capsys.readouterr()
    assert run(["verify", root, "--sources", sources]) == 0
    first, *each = capsys.readouterr().out.splitlines()
    assert first.endswith("kept 4, dropped 5; all proved")
    assert [line.split(":")[0].strip() for line in each] == ["00000", "part/00001"]
    Path(output.layout.tar("00009")).write_bytes(Path(output.layout.tar("00000")).read_bytes())
    assert run(["verify", root, "--sources", sources, "--json"]) == 4
    value = json.loads(capsys.readouterr().out)
    assert [one["what"] for one in value["violations"]] == ["no_input"]
    assert [one["samples"] for one in value["each"]] == [5, 4]
