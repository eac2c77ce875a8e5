"""Manifests of packed shards say what they hold, or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ecif import packmap, packs
from ecif.errors import InputError
from ecif.layout import Layout
from ecif.manifest import FileMark
from ecif.packmap import Generation, Target
from ecif.packs import PackInput, PackManifest
from ecif.storage import Storage
from tests.stages.outputs import parquet

GENERATION = Generation(0, 2, 0, "d", {"a": 3, "b": 2}, 1)


def manifest_of(target: Target, **change: Any) -> PackManifest:
    values: dict[str, Any] = {
        "shard": target.name,
        "generation": target.generation,
        "samples": target.samples,
        "inputs": {part.shard: PackInput("/in", 1, "etag", part.first, part.last) for part in target.parts},
        "files": {"tar": FileMark(10_240, "0" * 64)},
        "fit_key": "f",
        "score_key": "s",
        "decision_key": "d",
        "algo_version": 1,
    }
    return PackManifest(**values | change)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(str(tmp_path))
    Storage().publish(layout.pack_map(0), GENERATION.encode())
    return layout


def finish(target: Target, layout: Layout, storage: Storage) -> PackManifest:
    origins = [(part.shard, i) for part in target.parts for i in range(part.first, part.last)]
    table = pl.DataFrame({"shard": [shard for shard, _ in origins], "index": [i for _, i in origins]})
    published = storage.publish(layout.pack_table(target.generation, target.name), parquet(table))
    found = manifest_of(target, files={"table": FileMark(published.size, published.sha256)})
    storage.publish_json(layout.pack_manifest(target.generation, target.name), found.to_json())
    return found


def test_written_and_read_again(layout: Layout) -> None:
    storage = Storage()
    targets = list(packmap.load(layout, storage).targets())
    assert packs.read(targets[1], layout, storage) is None
    found = finish(targets[1], layout, storage)
    assert packs.read(targets[1], layout, storage) == found
    assert list(found.inputs) == ["a", "b"]


def test_what_is_finished(layout: Layout) -> None:
    storage = Storage()
    packed = packmap.load(layout, storage)
    assert packs.done(packed, layout, storage) == set()
    made = [finish(target, layout, storage) for target in packed.targets() if target.name != "00000001"]
    assert packs.done(packed, layout, storage) == {"00000000", "00000002"}
    assert list(packs.shards(layout, storage)) == made


def test_lookup_leads_from_old_to_new(layout: Layout) -> None:
    storage = Storage()
    for target in packmap.load(layout, storage).targets():
        finish(target, layout, storage)
    tables = list(packs.lookup(layout, storage))
    assert pl.concat(tables).select("shard", "index", "packed").rows() == [
        ("a", 0, "00000000"), ("a", 1, "00000000"), ("a", 2, "00000001"), ("b", 0, "00000001"), ("b", 1, "00000002"),
    ]  # fmt: skip


def test_the_manifest_of_another_shard_is_refused(layout: Layout) -> None:
    storage = Storage()
    first, second, _ = packmap.load(layout, storage).targets()
    storage.publish_json(layout.pack_manifest(0, second.name), manifest_of(first).to_json())
    with pytest.raises(InputError, match="is the manifest of packed shard 00000000"):
        packs.read(second, layout, storage)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 3}, "do not add up to 3"),
        ({"samples": "2"}, "samples is '2'"),
        ({"inputs": []}, r"inputs is \[\]"),
        ({"inputs": {"a": {"url": "x", "size": 1, "etag": "", "first": 1, "last": 1}}}, "range of survivors is empty"),
        ({"inputs": {"a": {"url": "x", "size": 1, "etag": "", "first": -1, "last": 1}}}, "range of survivors is empty"),
        ({"inputs": {"a": {"url": "x"}}}, "PackInput has the fields"),
        ({"files": {"ledger": {"size": 1, "sha256": "0"}}}, "unknown kind of file: ledger"),
        ({"files": {"tar": 1}}, "FileMark is int"),
        ({"more": 1}, "PackManifest has the fields"),
    ],
)
def test_damaged_manifests_are_refused(change: dict[str, Any], message: str) -> None:
    value = manifest_of(next(GENERATION.targets())).to_json() | change
    with pytest.raises(InputError, match=message):
        PackManifest.from_json(value, "x")
