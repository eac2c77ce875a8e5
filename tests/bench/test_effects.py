"""The parts of the effects bench that touch the truth: captions by true classes, and which pairs are wrong."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import polars as pl

from bench.effects import relabel, wrong_of


def _members(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as opened:
        return {info.name: opened.extractfile(info).read() for info in opened}  # type: ignore[union-attr]


def test_captions_are_replaced_and_nothing_else(tmp_path: Path) -> None:
    before = {"a.png": b"image", "a.txt": b"a photo of a cat.", "a.json": b"{}", "b.png": b"other", "b.txt": b"dog"}
    with tarfile.open(tmp_path / "old.tar", "w") as tar:
        for name, data in before.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    relabel(tmp_path / "old.tar", {"a": "a photo of a frog."}, tmp_path / "new.tar")
    assert _members(tmp_path / "new.tar") == {"a.png": b"image", "a.txt": b"a photo of a frog.", "a.json": b"{}"}


def test_what_is_neither_right_nor_wrong_is_not_wrong() -> None:
    truth = pl.DataFrame({"uid": ["a", "b", "c"], "misaligned": [True, False, None]})
    assert wrong_of(truth) == {"a"}
