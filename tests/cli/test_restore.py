"""The command restore: which samples, what is said, and that loaders find what came back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ecif.cli import run
from ecif.errors import EXIT_OK, EXIT_REFUSED, EXIT_SHARDS_FAILED
from tests.stages.test_restore import written


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = run(["restore", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_samples_come_back_and_loaders_find_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, _ = written(tmp_path)
    out = output.layout.root
    (tmp_path / "list.txt").write_text("# wanted\nsample:00000/b\nbad\n")
    code, value = answer(capsys, out, "--keys", str(tmp_path / "list.txt"), "--key", "e")
    assert code == EXIT_OK
    assert (value["asked"], value["restored"], value["restored_before"], value["failed"]) == (4, 4, 0, [])
    assert value["from"] == {"input": 4, "quarantine": 0}
    assert all(Path(url).is_file() for url in value["shards"])
    names = {
        Path(url).relative_to(out).as_posix(): samples for url, samples in zip(value["shards"], (2, 2), strict=True)
    }
    sizes = json.loads(output.bytes_of(output.layout.sizes()))
    assert {name: sizes[name] for name in names} == names

    assert run(["restore", out, "--all"]) == EXIT_OK
    said = capsys.readouterr().out
    assert "asked for 5 samples, restored 1 in 1 shards: 1 from the input, 0 from the quarantine" in said
    assert "restored by an earlier run, and left alone: 4 samples" in said


def test_a_shard_that_fails_is_told_and_the_others_come_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, _ = written(tmp_path)
    Path(output.inventory.shards[0].url).unlink()
    code, value = answer(capsys, output.layout.root, "--all")
    assert (code, value["restored"]) == (EXIT_SHARDS_FAILED, 2)
    assert [item["shard"] for item in value["failed"]] == ["00000"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which samples? give --keys"),
        (["--all", "--key", "a"], "--all means every sample"),
        (["--key", ""], "empty"),
        (["--key", "nobody"], "1 entries match no sample that went, nothing is restored: key:nobody"),
        (["--shard", "7"], "no finished shard has the name 7"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    output, _ = written(tmp_path)
    code, value = answer(capsys, output.layout.root, *arguments)
    assert code == EXIT_REFUSED
    assert message in value["error"]
