"""Packing again: after arrivals, after a kill, beside another run, and when something has changed meanwhile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ecif import inventory, packmap, packs
from ecif.errors import ConflictError, InputError, StorageError
from ecif.inventory import Inventory
from ecif.sources import expand
from ecif.stages.pack import extend_map, pack_shard
from ecif.storage import Published, Storage
from tests.conftest import Bucket
from tests.stages.outputs import SCORE_KEY, Output, parquet, policy, scores_of, shelve
from tests.stages.packing import files, numbered, pack_all, packed_tars, record_all


def arrive(output: Output, name: str, data: bytes) -> Inventory:
    """One more shard in the inventory, with scores."""
    source = Path(output.inventory.shards[0].url).parent
    (source / f"{name}.tar").write_bytes(data)
    output.storage.publish(output.layout.scores(SCORE_KEY, name), parquet(scores_of(data, name, [1.0] * 3)))
    return inventory.take(expand([str(source)], output.storage), output.layout, output.storage, {})


def test_arrivals_leave_what_is_packed_as_it_is(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00001": numbered("b", 4)})
    decision = output.decide(policy("0"))
    pack_all(output, decision, 3)
    before = {name: data for name, data in files(output).items() if "inventory" not in name}
    shards = arrive(output, "00000", numbered("a", 3))
    made = pack_all(output, decision, 3, shards)
    assert [(done.shard, done.generation, done.samples) for done in made] == [
        ("00000000", 0, 3), ("00000001", 0, 1), ("00000002", 1, 3),
    ]  # fmt: skip
    assert {name: data for name, data in files(output).items() if name in before} == before
    assert [done.shard for done in packs.shards(output.layout, output.storage)] == [done.shard for done in made]


def test_another_decision_is_a_conflict(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": numbered("a", 3)})
    pack_all(output, output.decide(policy("0")), 2)
    other = output.decide(policy("0.4"), "e" * 12)
    target = next(packmap.load(output.layout, output.storage).targets())
    for remove in (False, True):
        if remove:
            output.storage.delete(output.layout.pack_manifest(0, target.name))
        with pytest.raises(ConflictError, match=f"decision d+, not {other.key}"):
            pack_shard(target, other, output.inventory.by_name(), output.layout, output.storage)


def test_an_input_that_changed_is_refused(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": numbered("a", 3)})
    decision = output.decide(policy("0"))
    record_all(output, decision)
    (target,) = extend_map(output.layout, output.storage, 9).targets()
    Path(output.shard.url).write_bytes(numbered("z", 3))
    with pytest.raises(InputError, match="has changed since"):
        pack_shard(target, decision, output.inventory.by_name(), output.layout, output.storage)
    assert not list(Path(output.layout.root).glob("*.*"))


def test_a_map_that_counts_on_what_is_not_there_is_refused(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": numbered("a", 3)})
    decision = output.decide(policy("0"))
    record_all(output, decision)
    (target,) = extend_map(output.layout, output.storage, 9).targets()
    with pytest.raises(InputError, match="is in no inventory"):
        pack_shard(target, decision, {}, output.layout, output.storage)
    more = packmap.Target(target.name, 0, (packmap.Part("00000", 0, 4),))
    with pytest.raises(InputError, match="counts 3 survivors, and the map more"):
        pack_shard(more, decision, output.inventory.by_name(), output.layout, output.storage)
    output.storage.delete(output.layout.manifest("00000"))
    with pytest.raises(InputError, match="is gone, but the map counts on it"):
        pack_shard(target, decision, output.inventory.by_name(), output.layout, output.storage)


class Killed(Storage):
    """Real storage that stops to write after some files, as a killed process does."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def _spend(self, url: str) -> None:
        if not self.left:
            raise StorageError("killed", url=url)
        self.left -= 1

    def publish(self, url: str, data: bytes | Path, *, replace: bool = False) -> Published:
        self._spend(url)
        return super().publish(url, data, replace=replace)

    def create(self, url: str, *, at_most: int | None = None):  # type: ignore[no-untyped-def]
        self._spend(url)
        return super().create(url, at_most=at_most)


def test_killed_anywhere_and_run_again_ends_in_the_same_bytes(tmp_path: Path) -> None:
    def make(folder: Path) -> Output:
        output = shelve(folder, {"00000": numbered("a", 3), "00001": numbered("b", 3)})
        output.decide(policy("0.34"))
        return output

    def ours(output: Output) -> dict[str, bytes]:
        # Manifests and inventory tell where and when the inputs were.
        found = {name: data for name, data in files(output).items() if "/inventory/" not in name}
        where = ("manifest/", "pack/000000/")
        return {n: b"" if n.endswith(".json") and any(w in n for w in where) else d for n, d in found.items()}

    whole = make(tmp_path / "whole")
    pack_all(whole, whole.decide(policy("0.34")), 3)
    left = 0
    while True:
        output = make(tmp_path / str(left))
        decision = output.decide(policy("0.34"))
        dying = Killed(left)
        try:
            pack_all(Output(output.layout, dying, output.inventory), decision, 3)
        except StorageError:
            assert len(pack_all(output, decision, 3)) == 2
            assert ours(output) == ours(whole)
            left += 1
        else:
            break
    assert left == 2 * 2 + 1 + 2 * 5


def test_many_at_once_do_no_harm(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": numbered("a", 3), "00001": numbered("b", 3)})
    decision = output.decide(policy("0.34"))
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: pack_all(output, decision, 3), range(8)))
    assert all(one == made[0] for one in made)
    assert len(packmap.load(output.layout, output.storage).generations) == 1


def test_two_at_once_on_an_object_store(tmp_path: Path, s3_bucket: Bucket) -> None:
    local = shelve(tmp_path, {"00000": numbered("a", 3), "00001": numbered("b", 3)}, out=f"{tmp_path}/local")
    storage = Storage(s3_bucket.options)
    layout = type(local.layout)(f"{s3_bucket.url}/out")
    for name in ("00000", "00001"):
        storage.publish(layout.scores(SCORE_KEY, name), local.bytes_of(local.layout.scores(SCORE_KEY, name)))
    output = Output(layout, storage, local.inventory)
    decision = local.decide(policy("0.34"))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: pack_all(output, decision, 3), range(2))
    assert first == second
    pack_all(local, decision, 3)
    assert packed_tars(output) == packed_tars(local)
    assert not s3_bucket.client().list_multipart_uploads(Bucket=s3_bucket.name).get("Uploads")
