"""Tables with the names and types of CommonPool."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from ecif import manifest
from ecif.errors import InputError
from ecif.interop import commonpool, outcome
from ecif.inventory import Shard
from ecif.shards.tar import Limits
from ecif.stages.apply import apply_shard
from tests.conftest import MakeTar
from tests.interop.cleaned import KEPT, SAMPLES, Cleaned, cleaned, key, members, table, uid
from tests.stages.outputs import Output, parquet, policy, shelve

SCORES = ["ecif_status", "ecif_clip_score", "ecif_neg_clip_loss", "ecif_positive_influence", "ecif_negative_influence",
          "ecif_influence"]  # fmt: skip


def _table(output: Output, shard: Shard) -> pl.DataFrame:
    recorded = manifest.read(output.layout, output.storage, shard.name)
    assert recorded is not None
    found = outcome.read(recorded, output.layout, output.storage, columns=None)
    return commonpool.table(shard, found, output.storage)


def test_names_types_and_rows(done: Cleaned) -> None:
    found = _table(done.output, done.output.inventory.shards[1])
    assert dict(found.schema) == {
        "uid": pl.String,
        "url": pl.String,
        "text": pl.String,
        "original_width": pl.Int64,
        "original_height": pl.Int64,
        "clip_l14_similarity_score": pl.Float32,
        "face_bboxes": pl.List(pl.List(pl.Float64)),
        "sha256": pl.String,
        "key": pl.String,
        "ecif_status": pl.String,
        **dict.fromkeys(SCORES[1:], pl.Float32),
    }
    left = [key(1, index) for index in range(SAMPLES - KEPT, SAMPLES)]
    original = table(1).filter(pl.col("key").is_in(left))
    assert found["key"].to_list() == left
    assert found["uid"].to_list() == [uid(name) for name in left]
    assert found["text"].to_list() == original["caption"].to_list()
    for name in ("url", "original_width", "original_height", "face_bboxes", "sha256"):
        assert found[name].to_list() == original[name].to_list()
    assert found["clip_l14_similarity_score"].to_list() == pytest.approx([0.03, 0.04, 0.05])
    assert found["ecif_influence"].to_list() == [3.0, 4.0, 5.0]
    assert commonpool.unknown(found) == []
    assert pl.read_parquet(commonpool.encode(found)).equals(found)


def test_from_the_members_where_there_is_no_table(tmp_path: Path, make_tar: MakeTar) -> None:
    done = cleaned(tmp_path, make_tar, sidecars=False)
    found = _table(done.output, done.output.inventory.shards[0])
    left = [key(0, index) for index in range(SAMPLES - KEPT, SAMPLES)]
    assert found["uid"].to_list() == [uid(name) for name in left]
    assert found["url"].to_list() == [f"https://example.org/{name}.png" for name in left]
    assert found["text"].to_list() == [f"caption {name}" for name in left]
    assert found["original_width"].to_list() == [643, 644, 645]
    assert commonpool.unknown(found) == ["original_height", "sha256"]
    assert {"clip_b32_similarity_score", "clip_l14_similarity_score", "face_bboxes"}.isdisjoint(found.columns)


def test_members_that_say_nonsense(tmp_path: Path, make_tar: MakeTar) -> None:
    records = [
        {"URL": "u", "TEXT": "of the record", "WIDTH": 3, "similarity": 1, "face-boxes": [[0, 0.5, 1, 1]]},
        {"url": 7, "text": "\ud800", "original_width": "wide", "clip_similarity_vitb32": 0.5, "face_bboxes": [["x"]]},
        {"url": None, "sha256": [], "original_height": True, "oai-clip-vit-b32-score": None, "face_bboxes": 3},
    ]
    data = [(f"{n}.json", json.dumps(record).encode()) for n, record in enumerate(records)]
    data += [("3.txt", b"\xff in latin"), ("3.json", b"{"), ("4.txt", b"alone")]
    output = shelve(tmp_path, {"00000": make_tar(data)}, sidecars=False)
    decision = output.decide(policy("0"))
    apply_shard(output.shard, decision, output.layout, output.storage)
    found = _table(output, output.shard)
    assert found["url"].to_list() == ["u", None, None, None, None]
    assert found["text"].to_list() == ["of the record", None, None, "\ufffd in latin", "alone"]
    assert found["original_width"].to_list() == [3, None, None, None, None]
    assert found["original_height"].to_list() == [None] * 5
    assert found["clip_b32_similarity_score"].to_list() == [None, 0.5, None, None, None]
    assert found["face_bboxes"].to_list() == [[[0.0, 0.5, 1.0, 1.0]], None, None, None, None]
    assert all(len(name) == 32 for name in found["uid"])
    small = Limits(caption_bytes=5, json_bytes=0)
    recorded = manifest.read(output.layout, output.storage, "00000")
    assert recorded is not None
    read = outcome.read(recorded, output.layout, output.storage, columns=None)
    assert commonpool.table(output.shard, read, output.storage, small)["text"].to_list() == [None] * 4 + ["alone"]


def test_columns_of_other_types(done: Cleaned) -> None:
    shard = done.output.inventory.shards[0]
    assert shard.parquet is not None
    odd = table(0).with_columns(
        original_width=pl.lit("640"),
        original_height=pl.lit("tall"),
        caption=pl.lit(["a", "list"], dtype=pl.List(pl.String)),
        face_bboxes=pl.lit(None, pl.List(pl.List(pl.Float32))),
    )
    Path(shard.parquet).write_bytes(parquet(odd))
    found = _table(done.output, shard)
    assert found["original_width"].to_list() == [640] * KEPT
    assert commonpool.unknown(found) == ["text", "original_height"]
    assert found.schema["face_bboxes"] == pl.List(pl.List(pl.Float32))


@pytest.mark.parametrize("change", ["fewer", "more", "others"])
def test_a_tar_that_is_not_the_one_that_was_scored(tmp_path: Path, make_tar: MakeTar, change: str) -> None:
    done = cleaned(tmp_path, make_tar, sidecars=False)
    shard = done.output.inventory.shards[0]
    other = {"fewer": members(0)[:-3], "more": [*members(0), ("y.txt", b"y")], "others": members(1)}[change]
    Path(shard.url).write_bytes(make_tar(other))
    with pytest.raises(InputError, match="has changed since the inventory"):
        _table(done.output, shard)
    now = done.output.storage.info(shard.url)
    with pytest.raises(InputError, match=r"its score table 6|is not the one that was scored"):
        _table(done.output, replace(shard, size=now.size, etag=now.etag))
