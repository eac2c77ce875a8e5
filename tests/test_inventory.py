"""The inventory grows, never changes, and refuses inputs that changed."""

from __future__ import annotations

import json
import re
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ecif import inventory
from ecif.errors import ConflictError, InputError, MissingFileError, StorageError, UsageError
from ecif.inventory import Inventory, Shard, load, take
from ecif.layout import Layout
from ecif.sources import Expansion, Found, expand
from ecif.storage import Storage, join

if TYPE_CHECKING:
    from .conftest import Bucket

MakeTar = Callable[..., bytes]


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else str(request.getfixturevalue("memory_root"))


@pytest.fixture
def layout(root: str) -> Layout:
    return Layout(join(root, "clean"))


def _numbers(layout: Layout, storage: Storage) -> list[str]:
    return [_number(file.url) for file in storage.list(layout.inventories())]


def _number(url: str) -> str:
    """The name of a file of the inventory without the digest of its content."""
    return re.sub(r"-[0-9a-f]{8}\.json$", ".json", url.rpartition("/")[2])


def _file(layout: Layout, storage: Storage, number: int) -> str:
    (found,) = (file.url for file in storage.list(layout.inventories()) if f"/{number:06d}-" in file.url)
    return found


def _take(root: str, pattern: str, layout: Layout, storage: Storage, **extra: object) -> Inventory:
    return take(expand([join(root, pattern)], storage), layout, storage, extra)


def test_take_and_load(root: str, layout: Layout, storage: Storage, make_tar: MakeTar) -> None:
    tar = make_tar(3)
    storage.publish(join(root, "raw/0.tar"), tar)
    storage.publish(join(root, "raw/2.tar"), make_tar(5))
    storage.publish(join(root, "raw/2.parquet"), b"a parquet")
    storage.publish(join(root, "raw/2_stats.json"), json.dumps({"successes": 5, "count": 7}).encode())
    taken = _take(root, "raw/{0..2}.tar", layout, storage, settings={"seed": 3}, versions={"ecif": "0.1"})
    base = storage.check(join(root, "raw"))
    info = storage.info(f"{base}/0.tar")
    assert taken.shards[0] == Shard("0", f"{base}/0.tar", len(tar), info.etag, 3, None, None)
    assert taken.shards[1].samples == 5
    assert (taken.shards[1].parquet, taken.shards[1].stats) == (f"{base}/2.parquet", f"{base}/2_stats.json")
    assert taken.missing == (f"{base}/1.tar",)
    assert taken.total_samples() == 8
    assert list(taken.by_name()) == ["0", "2"]
    assert load(layout, storage) == taken
    record = storage.read_json(_file(layout, storage, 0))
    assert record["settings"] == {"seed": 3}
    assert record["versions"] == {"ecif": "0.1"}


def test_arrivals_are_appended(root: str, layout: Layout, storage: Storage, make_tar: MakeTar) -> None:
    storage.publish(join(root, "raw/1.tar"), make_tar(1))
    first = _take(root, "raw/{0..3}.tar", layout, storage)
    before = storage.read_bytes(_file(layout, storage, 0))
    assert _take(root, "raw/{0..3}.tar", layout, storage, other="settings") == first
    assert _numbers(layout, storage) == ["000000.json"]
    storage.publish(join(root, "raw/0.tar"), make_tar(2))
    both = _take(root, "raw/{0..3}.tar", layout, storage)
    assert [shard.name for shard in both.shards] == ["0", "1"]
    assert len(both.missing) == 2
    assert _numbers(layout, storage) == ["000000.json", "000001.json"]
    assert storage.read_bytes(_file(layout, storage, 0)) == before
    assert [shard["name"] for shard in storage.read_json(_file(layout, storage, 1))["shards"]] == ["0"]
    storage.publish(join(root, "raw/7.tar"), make_tar(1))
    # Only what arrived was named; what was listed before is still part of the corpus.
    assert [shard.name for shard in _take(root, "raw/7.tar", layout, storage).shards] == ["0", "1", "7"]
    assert load(layout, storage).missing == both.missing


def test_numbers_of_the_inventory_may_have_gaps(root: str, layout: Layout, storage: Storage, make_tar: MakeTar) -> None:
    storage.publish(join(root, "raw/0.tar"), make_tar(1))
    storage.publish_json(layout.inventory(41, "01234567"), {"shards": [], "missing": []})
    _take(root, "raw/*.tar", layout, storage)
    assert _numbers(layout, storage) == ["000041.json", "000042.json"]


def test_a_changed_shard(root: str, layout: Layout, storage: Storage, make_tar: MakeTar) -> None:
    storage.publish(join(root, "raw/0.tar"), make_tar(1))
    _take(root, "raw/*.tar", layout, storage)
    storage.publish(join(root, "raw/0.tar"), make_tar(1, seed=1), replace=True)
    with pytest.raises(InputError, match=r"raw/0\.tar: has changed since.*new --out"):
        _take(root, "raw/*.tar", layout, storage)
    assert _numbers(layout, storage) == ["000000.json"]


def test_a_shard_that_vanished(root: str, layout: Layout, storage: Storage, make_tar: MakeTar) -> None:
    storage.publish(join(root, "raw/0.tar"), make_tar(1))
    expansion = expand([join(root, "raw/0.tar")], storage)
    storage.delete(join(root, "raw/0.tar"))
    with pytest.raises(MissingFileError, match="any more"):
        take(expansion, layout, storage, {})


def test_names_and_urls_stay_together(root: str, layout: Layout, storage: Storage, make_tar: MakeTar) -> None:
    storage.publish(join(root, "a/0.tar"), make_tar(1))
    storage.publish(join(root, "b/0.tar"), make_tar(1))
    _take(root, "a/0.tar", layout, storage)
    with pytest.raises(ConflictError, match=r"lists '0' as .*a/0\.tar"):
        _take(root, "b/0.tar", layout, storage)
    with pytest.raises(ConflictError, match="as '0' and would now be 'a/0'"):
        _take(root, "{a,b}/0.tar", layout, storage)


def test_damaged_sidecars_and_tars(root: str, layout: Layout, storage: Storage, make_tar: MakeTar) -> None:
    good = make_tar(4)
    stats = {
        "lie": b'{"successes": 999999}',
        "negative": b'{"successes": -1}',
        "text": b'{"successes": "4"}',
        "flag": b'{"successes": true}',
        "none": b"{}",
        "list": b"[4]",
        "broken": b"{",
    }
    for name, data in stats.items():
        storage.publish(join(root, f"raw/{name}.tar"), good)
        storage.publish(join(root, f"raw/{name}_stats.json"), data)
    storage.publish(join(root, "raw/cut.tar"), good[:2000])
    storage.publish(join(root, "raw/image.tar"), b"\xff\xd8" * 1000)
    storage.publish(join(root, "raw/zero.tar"), b"")
    storage.publish(join(root, "raw/empty.tar"), make_tar(0))
    samples = {shard.name: shard.samples for shard in _take(root, "raw/*.tar", layout, storage).shards}
    assert samples == dict.fromkeys(stats, 4) | {"cut": None, "image": None, "zero": None, "empty": 0}
    assert load(layout, storage).total_samples() is None


def test_many_shards_in_one_directory(root: str, layout: Layout, storage: Storage, make_tar: MakeTar) -> None:
    for i in range(40):
        storage.publish(join(root, f"raw/{i:03d}.tar"), make_tar(1, seed=i))
        storage.publish(join(root, f"raw/{i:03d}_stats.json"), b'{"successes": 1}')
    taken = _take(root, "raw/{000..099}.tar", layout, storage)
    assert len(taken.shards) == 40
    assert all(shard.stats for shard in taken.shards)
    assert len(taken.missing) == 60
    assert _take(root, "raw/{000..099}.tar", layout, storage) == taken


@pytest.mark.parametrize("out", ["raw", "raw/clean", "raw/x/../clean", "."])
def test_output_and_input_overlap(root: str, storage: Storage, make_tar: MakeTar, out: str) -> None:
    storage.publish(join(root, "raw/0.tar"), make_tar(1))
    with pytest.raises(UsageError, match="choose another --out"):
        _take(root, "raw/0.tar", Layout(join(root, out)), storage)
    assert [file.url.rpartition("/")[2] for file in storage.list(root)] == ["0.tar"]


def test_output_inside_the_input_by_a_link(tmp_path: Path, storage: Storage, make_tar: MakeTar) -> None:
    storage.publish(str(tmp_path / "raw" / "0.tar"), make_tar(1))
    (tmp_path / "alias").symlink_to(tmp_path / "raw")
    with pytest.raises(UsageError, match="inside the input directory"):
        _take(str(tmp_path), "raw/0.tar", Layout(str(tmp_path / "alias" / "clean")), storage)


def test_nothing_to_load(layout: Layout, storage: Storage) -> None:
    with pytest.raises(UsageError, match="holds no inventory"):
        load(layout, storage)


@pytest.mark.parametrize(
    "record",
    [
        [],
        {},
        {"shards": [{"name": "a"}], "missing": []},
        {"shards": [["a"]], "missing": []},
        {"shards": None, "missing": []},
        {
            "shards": [{"name": 1, "url": "u", "size": 1, "etag": "", "samples": None, "parquet": None, "stats": None}],
            "missing": [],
        },
        {
            "shards": [
                {"name": "a", "url": "u", "size": "1", "etag": "", "samples": None, "parquet": None, "stats": None}
            ],
            "missing": [],
        },
    ],
)
def test_a_damaged_inventory(layout: Layout, storage: Storage, record: object) -> None:
    storage.publish_json(layout.inventory(0, "01234567"), record)
    with pytest.raises(InputError, match=r"000000-01234567\.json: is not a file of an inventory"):
        load(layout, storage)


def test_a_strange_file_in_the_inventory(layout: Layout, storage: Storage) -> None:
    storage.publish_json(join(layout.inventories(), "notes.json"), {})
    with pytest.raises(InputError, match=r"notes\.json"):
        load(layout, storage)


def test_the_same_shard_with_other_facts(layout: Layout, storage: Storage) -> None:
    facts = {"name": "a", "url": "u", "size": 1, "etag": "", "samples": None, "parquet": None, "stats": None}
    storage.publish_json(layout.inventory(0, "01234567"), {"shards": [facts], "missing": []})
    storage.publish_json(layout.inventory(1, "01234567"), {"shards": [facts], "missing": []})
    assert len(load(layout, storage).shards) == 1
    storage.publish_json(layout.inventory(2, "01234567"), {"shards": [{**facts, "size": 2}], "missing": []})
    with pytest.raises(ConflictError, match=r"000002-01234567\.json: lists shard 'a' again.*remove one"):
        load(layout, storage)


def _at_once(writers: list[Callable[[], Inventory]]) -> list[Inventory]:
    barrier = threading.Barrier(len(writers))
    results: dict[int, Inventory] = {}

    def run(index: int) -> None:
        barrier.wait()
        results[index] = writers[index]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(writers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[i] for i in range(len(writers))]


def test_writers_at_once_lose_no_shard(root: str, layout: Layout, storage: Storage, make_tar: MakeTar) -> None:
    for i in range(8):
        storage.publish(join(root, f"raw/{i}.tar"), make_tar(1, seed=i))
    parts = [expand([join(root, f"raw/[{i}-{i + 3}].tar")], storage) for i in range(5)]
    taken = _at_once([lambda part=part: take(part, layout, storage, {}) for part in parts])  # type: ignore[misc]
    for part, result in zip(parts, taken, strict=True):
        assert {found.name for found in part.shards} <= set(result.by_name())
    listed = [
        shard["name"] for file in storage.list(layout.inventories()) for shard in storage.read_json(file.url)["shards"]
    ]
    assert set(listed) == {str(i) for i in range(8)}
    assert [shard.name for shard in load(layout, storage).shards] == sorted(set(listed))


def test_a_storage_that_forgets_is_said(
    layout: Layout, storage: Storage, root: str, make_tar: MakeTar, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.publish(join(root, "raw/0.tar"), make_tar(1))
    expansion = expand([join(root, "raw/0.tar")], storage)
    monkeypatch.setattr(Storage, "list", lambda *args, **kwargs: [])
    with pytest.raises(StorageError, match="does not list shard '0', which was written"):
        take(expansion, layout, storage, {})


def test_on_s3(s3_bucket: Bucket, make_tar: MakeTar) -> None:
    storage = Storage(s3_bucket.options)
    for i in range(20):
        storage.publish(f"{s3_bucket.url}/raw/{i:05d}.tar", make_tar(2, seed=i))
    storage.publish(f"{s3_bucket.url}/raw/00003.parquet", b"rows")
    layout = Layout(f"{s3_bucket.url}/clean")
    taken = take(expand([f"{s3_bucket.url}/raw/{{00000..00029}}.tar"], storage), layout, storage, {})
    assert (len(taken.shards), taken.total_samples(), len(taken.missing)) == (20, 40, 10)
    assert taken.by_name()["00003"].parquet == f"{s3_bucket.url}/raw/00003.parquet"
    assert load(layout, storage) == taken
    # A single HEAD and a listing tell the same.
    assert take(expand([f"{s3_bucket.url}/raw/00003.tar"], storage), layout, storage, {}) == taken


def test_an_expansion_may_be_empty_of_news(layout: Layout, storage: Storage) -> None:
    taken = take(Expansion((), ("gap",)), layout, storage, {})
    assert taken == Inventory((), ("gap",))
    assert not storage.list(layout.root)
    assert Found("a", "b") == Found("a", "b")


def test_many_shards_are_written_to_several_files(
    root: str, layout: Layout, storage: Storage, make_tar: MakeTar, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(7):
        storage.publish(join(root, f"raw/{i}.tar"), make_tar(i, seed=i))
    monkeypatch.setattr(inventory, "FILE_SHARDS", 3)
    publish, written = Storage.publish_json, []

    def killed_after_two(self: Storage, url: str, *args: Any, **options: Any) -> Any:
        written.append(url)
        if len(written) == 3:
            raise KeyboardInterrupt
        return publish(self, url, *args, **options)

    monkeypatch.setattr(Storage, "publish_json", killed_after_two)
    with pytest.raises(KeyboardInterrupt):
        _take(root, "raw/{0..9}.tar", layout, storage)
    assert len(load(layout, storage).shards) == 6
    taken = _take(root, "raw/{0..9}.tar", layout, storage)
    # What was described before the end is kept, gaps too.
    assert _numbers(layout, storage) == ["000000.json", "000001.json", "000002.json"]
    assert [shard.samples for shard in taken.shards] == list(range(7))
    assert len(taken.missing) == 3
    assert load(layout, storage) == taken


def test_memory_of_taking_a_large_inventory(tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "FILE_SHARDS", 200)
    monkeypatch.setattr(inventory, "_AT_ONCE", 1)  # how many of 16 hold a buffer at the peak is chance, and megabytes

    def peak(count: int) -> int:
        raw = tmp_path / f"raw-{count}"
        raw.mkdir()
        (raw / "0.tar").write_bytes(bytes(1024))
        (raw / "0_stats.json").write_text('{"successes": 2}')
        for i in range(1, count):
            (raw / f"{i}.tar").hardlink_to(raw / "0.tar")
            (raw / f"{i}_stats.json").hardlink_to(raw / "0_stats.json")
        layout = Layout(str(tmp_path / f"out-{count}"))
        tracemalloc.start()
        try:
            taken = take(expand([str(raw)], storage), layout, storage, {})
            found = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(taken.shards) == count
        return found

    few, many = peak(1_000), peak(4_000)
    assert (many - few) / 3_000 < 1_000  # bytes, some 600; with one file for all shards it is 2,500
