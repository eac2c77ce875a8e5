"""`ecif lint`: findings as lines, as one document, and as a stream in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ecif.cli import lint, run
from tests.shards.tars import Entry, pack
from tests.shards.test_lint import IMAGE, good


@pytest.fixture
def raw(tmp_path: Path) -> str:
    """Two shards: one sample without a caption, and two with one image."""
    (tmp_path / "00000.tar").write_bytes(pack([*good("a"), Entry("b.png", b"\x89PNG" + IMAGE)]))
    (tmp_path / "00001.tar").write_bytes(pack(good("c")))
    return str(tmp_path / "{00000..00001}.tar")


def test_findings_are_lines_and_the_counts_come_last(raw: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lint", raw]) == 4
    *findings, head = capsys.readouterr().out.splitlines()
    assert head == "2 shards, 3 samples: 1 errors, 1 warnings"
    assert [line.split(": ")[0] for line in findings] == ["error", "warning"]
    assert "offset 3584: no_caption" in findings[0]


def test_one_document_with_a_limit(
    raw: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["lint", raw, "--json"]) == 4
    value = json.loads(capsys.readouterr().out)
    assert [finding["code"] for finding in value["findings"]] == ["no_caption", "equal_images"]
    assert (value["counts"], value["not_shown"]) == ({"equal_images": 1, "no_caption": 1}, 0)
    monkeypatch.setattr(lint, "MOST_IN_JSON", 1)
    assert run(["lint", raw, "--json"]) == 4
    value = json.loads(capsys.readouterr().out)
    assert (len(value["findings"]), value["not_shown"]) == (1, 1)


def test_all_findings_in_a_file(raw: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "findings.jsonl"
    assert run(["lint", raw, "--jsonl", str(file)]) == 4
    assert capsys.readouterr().out.strip().endswith(f"1 errors, 1 warnings: {file}")
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(one["severity"], one["code"], one["member"]) for one in found] == [
        ("error", "no_caption", "b.png"),
        ("warning", "equal_images", "a.jpg"),
    ]
    assert run(["lint", raw, "--jsonl", str(tmp_path / "no" / "such")]) == 2


def test_equal_images_can_be_left_out(raw: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lint", raw, "--equal-images", "3"]) == 4
    assert ": equal_images: " not in capsys.readouterr().out
    assert run(["lint", raw, "--equal-images", "1"]) == 2
    assert "--equal-images" in capsys.readouterr().err
