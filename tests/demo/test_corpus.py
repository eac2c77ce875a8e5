"""The corpus is the same for a seed, is laid out as img2dataset's, and keeps its secret."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import webdataset
from PIL import Image

from ecif.demo import corpus
from ecif.shards.lint import Finding, lint
from ecif.sources import expand
from ecif.storage import Storage


def _samples(tar: Path) -> list[dict[str, Any]]:
    return list(webdataset.WebDataset(str(tar), shardshuffle=False))


def _bytes(root: Path) -> dict[str, str]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first, again, other = (
        corpus.build(tmp_path / name, pairs=60, validation_pairs=10, shards=2, wrong=0.2, seed=seed)
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert _bytes(first.raw.parent) == _bytes(again.raw.parent)
    assert _bytes(first.raw.parent) != _bytes(other.raw.parent)
    assert set(_bytes(first.raw)) == {f"0000{n}{end}" for n in (0, 1) for end in (".tar", ".parquet", "_stats.json")}


def test_building_again_replaces(tmp_path: Path) -> None:
    corpus.build(tmp_path, pairs=60, validation_pairs=10, shards=3, wrong=0.2, seed=1)
    made = corpus.build(tmp_path, pairs=60, validation_pairs=10, shards=2, wrong=0.2, seed=1)
    assert sorted(made.raw.glob("*.tar")) == list(made.shards)


def test_tar_parquet_and_statistics_agree(small_corpus: corpus.Corpus) -> None:
    total = 0
    for number, tar in enumerate(small_corpus.shards):
        samples = _samples(tar)
        table = pl.read_parquet(tar.with_suffix(".parquet"))
        stats = json.loads(tar.with_name(f"{tar.stem}_stats.json").read_text())
        success = table.filter(pl.col("status") == "success")
        assert success["key"].to_list() == [sample["__key__"] for sample in samples]
        assert stats["count"] == len(table) > len(success) == stats["successes"] == stats["status_dict"]["success"]
        assert stats["failed_to_download"] + stats["failed_to_resize"] == len(table) - len(success)
        assert sum(stats["status_dict"].values()) == stats["count"]
        # 133 to 138 urls a shard: three digits for the place, five for the shard.
        assert sorted(int(key) for key in table["key"]) == [1000 * number + place for place in range(len(table))]
        assert set(table["key"].str.len_bytes()) == {8}
        assert table["key"].to_list() != sorted(table["key"])
        for column in ("width", "height", "original_width", "original_height"):
            assert table.schema[column] == pl.Int32
        total += len(samples)
    assert total == 400


def test_samples_hold_what_their_row_says(small_corpus: corpus.Corpus) -> None:
    for tar in small_corpus.shards:
        rows = {row["key"]: row for row in pl.read_parquet(tar.with_suffix(".parquet")).to_dicts()}
        for sample in _samples(tar):
            row = rows[sample["__key__"]]
            assert json.loads(sample["json"]) == row
            assert sample["txt"].decode() == row["caption"]
            assert hashlib.sha256(sample["jpg"]).hexdigest() == row["sha256"]
            assert len(row["uid"]) == 32
            assert set(row["uid"]) <= set("0123456789abcdef")
            assert Image.open(io.BytesIO(sample["jpg"])).size == (row["width"], row["height"])


def test_tars_are_ustar(small_corpus: corpus.Corpus) -> None:
    with tarfile.open(small_corpus.shards[0]) as archive:
        names = archive.getnames()
        assert archive.pax_headers == {}
    assert [name.rpartition(".")[2] for name in names[:3]] == ["jpg", "json", "txt"]


def test_our_own_lint_finds_nothing(small_corpus: corpus.Corpus) -> None:
    storage = Storage()
    findings: list[Finding] = []
    found = lint(expand([str(small_corpus.raw)], storage), storage, "txt", findings.append)
    assert findings == []
    assert found.samples == 400


def test_truth_is_complete_and_nowhere_else(small_corpus: corpus.Corpus) -> None:
    truth = pl.read_parquet(small_corpus.truth)
    assert truth.schema == pl.Schema(corpus.TRUTH)
    counts = dict(truth.group_by("kind").len().iter_rows())
    assert counts == {"clean": 336, "swap_random": 16, "swap_similar": 16, "drop_words": 16, "edit_word": 16}
    assert truth["misaligned"].to_list() == [kind != "clean" for kind in truth["kind"]]
    assert truth["misaligned"].to_list() == (truth["caption"] != truth["original_caption"]).to_list()
    by_uid = {row["uid"]: row for row in truth.to_dicts()}
    for tar in small_corpus.shards:
        for sample in _samples(tar):
            record = json.loads(sample["json"])
            row = by_uid.pop(record["uid"])
            assert (row["key"], row["shard"], row["caption"]) == (record["key"], tar.stem, record["caption"])
            assert not {"kind", "misaligned", "original_caption"} & set(record)
    assert by_uid == {}


def test_validation_is_clean_and_disjoint(small_corpus: corpus.Corpus) -> None:
    validation = _samples(small_corpus.validation)
    tables = [pl.read_parquet(tar.with_suffix(".parquet")) for tar in small_corpus.shards]
    table = pl.concat(tables)
    truth = pl.read_parquet(small_corpus.truth)
    assert len(validation) == 40
    captions = {_canonical(sample["txt"].decode()) for sample in validation}
    originals = [*truth["original_caption"], *table.filter(pl.col("status") != "success")["caption"]]
    assert len(captions) == 40
    assert not captions & {_canonical(text) for text in originals}
    assert not {json.loads(sample["json"])["uid"] for sample in validation} & set(table["uid"])
    assert not {hashlib.sha256(sample["jpg"]).hexdigest() for sample in validation} & set(table["sha256"])


def _canonical(text: str) -> str:
    """The same for both right captions of a scene; read from the words, apart from the code under test."""
    objects, ground = text.split(" on a ")
    for relation, opposite in (("below", "above"), ("right of", "left of")):
        one, found, other = objects.partition(f" {relation} ")
        if found:
            objects = f"{other} {opposite} {one}"
    return f"{objects} on a {ground}"


@pytest.mark.parametrize(("pairs", "shards"), [(3, 2), (10, 0), (corpus.MOST_PAIRS + 1, 2)])
def test_impossible_sizes_are_refused(tmp_path: Path, pairs: int, shards: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        corpus.build(tmp_path, pairs=pairs, validation_pairs=2, shards=shards, wrong=0.1, seed=0)
    assert list(tmp_path.iterdir()) == []
