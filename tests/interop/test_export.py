"""`ecif export`: what it writes, and what it says when something is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ecif.cli import run
from ecif.stages.apply import apply_shard
from tests.conftest import MakeTar
from tests.interop.cleaned import SHARDS, Cleaned, uid
from tests.stages.outputs import policy, shelve


def _numbers(keys: list[str]) -> list[tuple[int, int]]:
    """What a list of the samples with these keys holds."""
    return sorted((int(uid(key)[:16], 16), int(uid(key)[16:], 16)) for key in keys)


def _answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = run([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_lists_of_those_that_are_left_and_of_those_that_went(
    done: Cleaned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep, drop = tmp_path / "keep.npy", tmp_path / "drop.npy"
    code, value = _answer(capsys, "export", done.root, "--uids", keep, "--dropped-uids", drop)
    assert code == 0
    assert value["uids"] == {
        "uids": str(keep),
        "dropped_uids": str(drop),
        "left": 9,
        "went": 9,
        "repeated": 0,
        "in_both": 0,
    }
    assert "index" not in value
    for file, keys in ((keep, done.left), (drop, done.went)):
        found = np.load(file)
        assert found.dtype == np.dtype("u8,u8")
        assert found.tolist() == _numbers(keys)
    assert run(["export", done.root, "--uids", str(keep)]) == 0
    assert f"9 uids of samples that are left: {keep}" in capsys.readouterr().out
    assert run(["export", done.root, "--uids", str(drop)]) == 2  # other content has the name
    assert run(["export", done.root, "--uids", "keep.txt"]) == 2
    assert "--uids keep.txt: a DataComp list is a .npy file" in capsys.readouterr().err


def test_uids_at_several_samples(tmp_path: Path, make_tar: MakeTar, capsys: pytest.CaptureFixture[str]) -> None:
    # The same samples in two shards, the first of which goes in one of them.
    output = shelve(tmp_path, {"0": make_tar(4), "1": make_tar(4)})
    decision = output.decide(policy("0.125"))
    for shard in output.inventory.shards:
        apply_shard(shard, decision, output.layout, output.storage)
    file = tmp_path / "keep.npy"
    code, value = _answer(capsys, "export", output.layout.root, "--uids", file)
    assert code == 0
    assert {name: value["uids"][name] for name in ("left", "went", "repeated", "in_both")} == {
        "left": 7,
        "went": 1,
        "repeated": 4,
        "in_both": 1,
    }
    assert np.load(file).tolist() == [(0, 0), (0, 1), (0, 1), (0, 2), (0, 2), (0, 3), (0, 3)]
    assert run(["export", output.layout.root, "--uids", str(file)]) == 0
    assert "4 uids stand at several samples; of 1 of them some went and some are left" in capsys.readouterr().out


def test_uids_that_no_list_can_hold(tmp_path: Path, make_tar: MakeTar, capsys: pytest.CaptureFixture[str]) -> None:
    members = [("a.txt", b"x"), ("b.json", b'{"uid": "%s"}' % (b"0" * 31)), ("b.txt", b"x")]
    output = shelve(tmp_path, {"0": make_tar(members)}, sidecars=False)
    apply_shard(output.shard, output.decide(policy("0")), output.layout, output.storage)
    assert run(["export", output.layout.root, "--uids", str(tmp_path / "keep.npy")]) == 2
    message = capsys.readouterr().err
    assert f"the uid of sample 'b' of shard 0 is '{'0' * 31}', not 32 hexadecimal digits" in message
    assert "--commonpool writes tables with any uid" in message
    assert not (tmp_path / "keep.npy").exists()
    assert run(["export", output.layout.root, "--commonpool", str(tmp_path / "pool")]) == 0
    assert "nothing is known for original_height, original_width, sha256, url" in capsys.readouterr().out
    assert pl.read_parquet(tmp_path / "pool" / "0.parquet")["uid"].to_list()[1] == "0" * 31


def test_tables_and_indexes(done: Cleaned, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = tmp_path / "pool"
    code, value = _answer(capsys, "export", done.root, "--commonpool", pool, "--sizes")
    assert (code, value["failed"]) == (0, [])
    assert value["commonpool"] == {"dir": str(pool), "tables": SHARDS, "rows": 9, "unknown": []}
    assert value["index"]["files"] == [done.output.layout.sizes()]
    assert (value["index"]["tars"], value["index"]["samples"]) == (SHARDS, 9)
    assert pl.read_parquet(pool / "*.parquet")["key"].to_list() == done.left
    code, value = _answer(capsys, "export", done.root)
    assert (code, value["index"]["files"]) == (0, [done.output.layout.sizes(), done.output.layout.wids()])
    assert not Path(done.root, "sizes.json").exists()
    assert run(["export", done.root, "--beside", "--wids"]) == 0
    assert "img2dataset reads every JSON file beside the shards" in capsys.readouterr().err
    assert Path(done.root, "wids.json").exists()
    assert not Path(done.root, "sizes.json").exists()
    assert run(["export", done.root, "--beside"]) == 0
    assert json.loads(Path(done.root, "sizes.json").read_text("ascii")) == {f"{n:08d}.tar": 3 for n in range(SHARDS)}


def test_what_is_missing_is_listed(done: Cleaned, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path(done.output.layout.manifest("00000001")).unlink()
    keep = tmp_path / "keep.npy"
    code, value = _answer(capsys, "export", done.root, "--uids", keep, "--commonpool", tmp_path / "pool", "--sizes")
    assert code == 3
    (failed,) = value["failed"]
    assert failed["shard"] == "00000001"
    assert "this shard is not finished; run apply, or clean, again" in failed["reason"]
    assert value["uids"]["uids"] is None
    assert not keep.exists()
    assert (value["commonpool"]["tables"], value["index"]["tars"]) == (2, 2)
    assert run(["export", done.root, "--uids", str(keep)]) == 3
    text = capsys.readouterr().out
    assert "no uid list is written, because shards are missing" in text
    assert "failed: 00000001" in text
    assert _answer(capsys, "export", done.root)[0] == 3


def test_a_table_that_cannot_be_made(done: Cleaned, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = done.output.inventory.shards[2]
    assert shard.parquet is not None
    Path(shard.parquet).write_bytes(b"no table")
    code, value = _answer(capsys, "export", done.root, "--commonpool", tmp_path / "pool")
    assert (code, value["commonpool"]["tables"]) == (3, 2)
    assert [failed["shard"] for failed in value["failed"]] == ["00000002"]
