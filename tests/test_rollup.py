"""The rollup says what the manifests say, reads each once, and is believed only where the listing agrees."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ecif import manifest, rollup
from ecif.errors import InputError
from ecif.layout import Layout
from ecif.manifest import Manifest
from ecif.storage import Storage, join
from tests.manifests import made_manifest


class Counting(Storage):
    """Notes which files are read."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def read_json(self, url: str) -> Any:
        self.seen.append(url.rpartition("/")[2])
        return super().read_json(url)


@pytest.fixture
def storage() -> Counting:
    return Counting()


@pytest.fixture(params=["local", "memory"])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Layout:
    root = str(tmp_path) if request.param == "local" else str(request.getfixturevalue("memory_root"))
    return Layout(join(root, "clean"))


def _finish(layout: Layout, storage: Storage, *made: Manifest) -> None:
    for one in made:
        manifest.write(one, layout, storage)


def _said(table: pl.DataFrame) -> list[tuple[Any, ...]]:
    return table.drop("size", "etag").rows()


def test_the_table_says_what_the_manifests_say(layout: Layout, storage: Counting) -> None:
    assert rollup.refresh(layout, storage).schema == rollup.load(layout, storage).schema == pl.Schema(rollup.SCHEMA)
    assert not storage.exists(layout.manifest_rollup())
    _finish(layout, storage, made_manifest("b/1"), made_manifest("a/0", 9), made_manifest("c", tar=None))
    expected = [
        ("a/0", "d" * 12, 12, 9, 2, 1, '{"no_image": 1, "ok": 11}', 4096),
        ("b/1", "d" * 12, 10, 7, 2, 1, '{"no_image": 1, "ok": 9}', 4096),
        ("c", "d" * 12, 10, 7, 2, 1, '{"no_image": 1, "ok": 9}', None),
    ]
    assert _said(rollup.load(layout, storage)) == _said(rollup.refresh(layout, storage)) == expected


def test_each_manifest_is_read_once(layout: Layout, storage: Counting) -> None:
    _finish(layout, storage, made_manifest("0"), made_manifest("1"))
    rollup.refresh(layout, storage)
    assert sorted(storage.seen) == ["0.json", "1.json"]
    _finish(layout, storage, made_manifest("2"))
    storage.seen.clear()
    first = rollup.refresh(layout, storage)
    assert storage.seen == ["2.json"]
    storage.seen.clear()
    before = storage.info(layout.manifest_rollup())
    assert rollup.refresh(layout, storage).equals(first)
    assert rollup.load(layout, storage).equals(first)
    assert storage.seen == []
    assert storage.info(layout.manifest_rollup()) == before


def test_what_the_listing_does_not_confirm_is_read_again(layout: Layout, storage: Counting) -> None:
    _finish(layout, storage, made_manifest("0"), made_manifest("1"), made_manifest("2"))
    rollup.refresh(layout, storage)
    storage.delete(layout.manifest("0"))
    storage.delete(layout.manifest("1"))
    _finish(layout, storage, made_manifest("1", 1007))
    storage.seen.clear()
    assert rollup.refresh(layout, storage).select("shard", "kept").rows() == [("1", 1007), ("2", 7)]
    assert storage.seen == ["1.json"]
    storage.delete(layout.manifest("1"))
    assert rollup.refresh(layout, storage).select("shard", "kept").rows() == [("2", 7)]
    assert rollup.load(layout, Storage()).height == 1


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut", "foreign", "doubled"])
def test_a_rollup_that_is_not_ours_is_made_again(layout: Layout, storage: Counting, damage: str) -> None:
    _finish(layout, storage, made_manifest("0"), made_manifest("1"))
    whole = rollup.refresh(layout, storage)
    data = storage.read_bytes(layout.manifest_rollup())
    match damage:
        case "empty":
            data = b""
        case "garbage":
            data = b"\0" * 100
        case "cut":
            data = data[: len(data) // 2]
        case "foreign":
            data = _parquet(pl.DataFrame({"shard": ["0"]}))
        case "doubled":
            data = _parquet(pl.concat([whole, whole]))
    storage.publish(layout.manifest_rollup(), data, replace=True)
    storage.seen.clear()
    assert rollup.refresh(layout, storage).equals(whole)
    assert sorted(storage.seen) == ["0.json", "1.json"]
    storage.seen.clear()
    assert rollup.load(layout, storage).equals(whole)
    assert storage.seen == []


def _parquet(table: pl.DataFrame) -> bytes:
    data = io.BytesIO()
    table.write_parquet(data)
    return data.getvalue()


def test_a_damaged_manifest_is_an_error(layout: Layout, storage: Counting) -> None:
    _finish(layout, storage, made_manifest("0"))
    storage.publish_json(layout.manifest("1"), replace(made_manifest("1"), shard="2").to_json())
    with pytest.raises(InputError, match="manifest of shard '2'"):
        rollup.refresh(layout, storage)
    assert not storage.exists(layout.manifest_rollup())
