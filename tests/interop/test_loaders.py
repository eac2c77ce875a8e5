"""The indexes follow from the manifests, whatever form the output has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ecif import manifest
from ecif.interop.loaders import Tar, tars, write_index
from ecif.layout import Layout
from ecif.manifest import FileMark, Manifest
from ecif.restores import claim
from ecif.stages.pack import extend_map, pack_shard, record_shard
from ecif.stages.restore import restore_shard
from ecif.storage import FileInfo, Storage, join
from tests.conftest import MakeTar
from tests.interop.cleaned import Cleaned, key, shelved
from tests.stages.outputs import policy


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture(params=["local", "memory"])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Layout:
    root = str(tmp_path) if request.param == "local" else str(request.getfixturevalue("memory_root"))
    return Layout(join(root, "clean"))


def _finished(shard: str, kept: int, tar: int | None = 4096) -> Manifest:
    return Manifest(
        shard=shard,
        input=FileInfo(f"s3://b/raw/{shard}.tar", 10_240, "etag"),
        samples=kept,
        kept=kept,
        dropped=0,
        quarantined=0,
        unscored=0,
        statuses={"ok": kept},
        files={} if tar is None else {"tar": FileMark(tar, "b" * 64)},
        fit_key="f" * 12,
        score_key="c" * 12,
        decision_key="d" * 12,
        algo_version=1,
    )


def _finish(layout: Layout, storage: Storage, shard: str, kept: int, tar: int | None = 4096) -> None:
    manifest.write(_finished(shard, kept, tar), layout, storage)


def test_index(layout: Layout, storage: Storage) -> None:
    assert write_index(layout, storage).tars == 0
    assert storage.read_json(layout.sizes()) == {}
    for shard, kept, tar in (("00001", 5, 2048), ("00000", 7, 4096), ("00002", 0, None)):
        _finish(layout, storage, shard, kept, tar)
    found = write_index(layout, storage)
    assert (found.tars, found.samples, found.size) == (2, 12, 6144)
    assert found.files == (layout.sizes(), layout.wids())
    assert storage.read_json(layout.sizes()) == {"00000.tar": 7, "00001.tar": 5}
    assert storage.read_json(layout.wids()) == {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": "clean",
        "shardlist": [
            {"url": "../../00000.tar", "nsamples": 7, "filesize": 4096},
            {"url": "../../00001.tar", "nsamples": 5, "filesize": 2048},
        ],
    }
    _finish(layout, storage, "00003", 1)
    write_index(layout, storage, wids=False)
    assert storage.read_json(layout.sizes())["00003.tar"] == 1
    assert len(storage.read_json(layout.wids())["shardlist"]) == 2


def test_equal_basenames_are_not_confused(layout: Layout, storage: Storage) -> None:
    for shard, kept in (("a/0", 1), ("b/0", 2), ("b/1", 3)):
        _finish(layout, storage, shard, kept)
    write_index(layout, storage, beside=True)
    assert storage.read_json(layout.sizes()) == {"a/0.tar": 1, "b/0.tar": 2, "1.tar": 3}
    # Beside the shards each directory has its own.
    assert storage.read_json(f"{layout.root}/a/sizes.json") == {"0.tar": 1}
    assert storage.read_json(f"{layout.root}/b/sizes.json") == {"0.tar": 2, "1.tar": 3}
    assert not storage.exists(f"{layout.root}/sizes.json")
    assert [shard["url"] for shard in storage.read_json(f"{layout.root}/wids.json")["shardlist"]] == [
        "a/0.tar",
        "b/0.tar",
        "b/1.tar",
    ]


def test_more_shards_than_are_held(tmp_path: Path, storage: Storage) -> None:
    layout = Layout(str(tmp_path / "out"))
    made: dict[str, Any] = {}
    Path(layout.manifests()).mkdir(parents=True)
    for number in range(1100):
        written = _finished(f"{number:05d}", number % 7).to_json()
        Path(layout.manifest(f"{number:05d}")).write_text(json.dumps(written), "ascii")
        made[f"{number:05d}.tar"] = number % 7
    found = write_index(layout, storage)
    assert storage.read_json(layout.sizes()) == made
    assert found.samples == sum(made.values())
    listed = json.loads(Path(layout.wids()).read_text("ascii"))["shardlist"]
    assert [shard["nsamples"] for shard in listed] == list(made.values())


def test_restored_samples_stand_under_their_path(done: Cleaned) -> None:
    layout, storage = done.output.layout, done.output.storage
    (back,) = claim(layout, storage, done.decision.key, {"00000001": {0: key(1, 0), 2: key(1, 2)}})
    restore_shard(done.output.inventory.shards[1], back, done.decision, layout, storage)
    path = f"restored-{back.key}/00000001.tar"
    write_index(layout, storage, beside=True)
    own = {f"{number:08d}.tar": 3 for number in range(3)}
    assert storage.read_json(layout.sizes()) == own | {path: 2}
    assert storage.read_json(f"{done.root}/sizes.json") == own
    assert storage.read_json(f"{done.root}/restored-{back.key}/sizes.json") == {"00000001.tar": 2}
    found = list(tars(layout, storage))
    assert found[-1] == Tar(path, 2, Path(done.root, path).stat().st_size, restored=True)
    assert [tar.restored for tar in found] == [False, False, False, True]


def test_packed_shards_are_read_instead_of_those_that_went_into_them(tmp_path: Path, make_tar: MakeTar) -> None:
    output = shelved(tmp_path, make_tar)
    layout, storage, decision = output.layout, output.storage, output.decide(policy("0.5"))
    for shard in output.inventory.shards:
        record_shard(shard, decision, layout, storage)
    by_name = output.inventory.by_name()
    for target in extend_map(layout, storage, 4).targets():
        pack_shard(target, decision, by_name, layout, storage)
    write_index(layout, storage)
    assert storage.read_json(layout.sizes()) == {"00000000.tar": 4, "00000001.tar": 4, "00000002.tar": 1}
