"""A packed shard is proved from its inputs; whatever does not hold is named."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ecif import packmap, packs
from ecif.stages.pack_proof import verify_map, verify_pack
from tests.shards.tars import pack, sample
from tests.stages.outputs import Output, parquet, policy, shelve
from tests.stages.packing import numbered, pack_all


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """Two packed shards, of 3 samples and of 1; the second input is cut."""
    found = shelve(tmp_path, {"00000": numbered("a", 3), "00001": numbered("b", 3)})
    pack_all(found, found.decide(policy("0.34")), 3)
    return found


def check(output: Output, place: int = 0) -> list[tuple[str, str]]:
    """What is wrong with a packed shard: code and detail."""
    target = list(packmap.load(output.layout, output.storage).targets())[place]
    found = packs.read(target, output.layout, output.storage)
    violations = verify_pack(target, found, output.inventory.by_name(), output.layout, output.storage)
    assert {violation.shard for violation in violations} <= {target.name}
    return [(violation.what, violation.detail) for violation in violations]


def damage(url: str, change: Callable[[bytes], bytes]) -> None:
    path = Path(url)
    path.write_bytes(change(path.read_bytes()))


def remark(output: Output, name: str, **change: Any) -> None:
    """Forge a manifest, so that sizes and hashes do not give a change away."""
    url = output.layout.pack_manifest(0, name)
    value = json.loads(Path(url).read_text())
    for kind, place in packs.urls(name, 0, output.layout).items():
        if kind in value["files"]:
            published = output.storage.publish(place, Path(place).read_bytes())
            value["files"][kind] = {"size": published.size, "sha256": published.sha256}
    Path(url).write_text(json.dumps(value | change))


def test_a_packed_output_is_proved(output: Output) -> None:
    assert check(output, 0) == check(output, 1) == []


def test_what_has_no_manifest_is_not_packed(output: Output) -> None:
    output.storage.delete(output.layout.pack_manifest(0, "00000000"))
    ((what, detail),) = check(output)
    assert what == "not_packed"
    assert "pack/000000/00000000.json" in detail


@pytest.mark.parametrize("kind", packs.FILES)
def test_files_that_changed(output: Output, kind: str) -> None:
    damage(packs.urls("00000000", 0, output.layout)[kind], lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    assert "file" in {what for what, _ in check(output)}
    assert check(output, 1) == []


@pytest.mark.parametrize("kind", packs.FILES)
def test_files_that_are_gone(output: Output, kind: str) -> None:
    Path(packs.urls("00000000", 0, output.layout)[kind]).unlink()
    assert [what for what, _ in check(output)] == ["missing"]


@pytest.mark.parametrize("offset", [0, 512, 1024, 3000])
def test_a_byte_of_the_tar_that_changed_with_its_manifest(output: Output, offset: int) -> None:
    damage(output.layout.tar("00000000"), lambda data: data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])
    remark(output, "00000000")
    ((what, detail),) = check(output)
    assert what == "bytes"
    assert "has to stand" in detail


def test_a_sample_too_many_or_in_another_order(output: Output) -> None:
    tar = Path(output.layout.tar("00000000"))
    tar.write_bytes(tar.read_bytes().rstrip(b"\0") + bytes(512 - len(tar.read_bytes().rstrip(b"\0")) % 512)
                    + pack(sample("z")))  # fmt: skip
    remark(output, "00000000")
    assert [what for what, _ in check(output)] == ["bytes"]
    tar.write_bytes(Path(output.layout.tar("00000001")).read_bytes())
    remark(output, "00000000")
    assert [what for what, _ in check(output)] == ["bytes"]


def test_sidecars_that_say_something_else(output: Output) -> None:
    for url, change in (
        (output.layout.parquet("00000000"), lambda table: table.reverse()),
        (output.layout.pack_table(0, "00000000"), lambda table: table.with_columns(index=pl.col("index") + 1)),
    ):
        before = Path(url).read_bytes()
        damage(url, lambda data, change=change: parquet(change(pl.read_parquet(io.BytesIO(data)))))  # type: ignore[misc]
        remark(output, "00000000")
        ((what, detail),) = check(output)
        assert what == "sidecars"
        assert url in detail
        Path(url).write_bytes(before)
    damage(output.layout.stats("00000000"), lambda data: data.replace(b'"count": 3', b'"count": 4'))
    remark(output, "00000000")
    assert [what for what, _ in check(output)] == ["sidecars"]
    damage(output.layout.stats("00000000"), lambda data: b"{")
    remark(output, "00000000")
    assert [what for what, _ in check(output)] == ["sidecars"]


def test_a_manifest_that_says_something_else(output: Output) -> None:
    remark(output, "00000000", decision_key="e" * 12)
    assert {what for what, _ in check(output)} == {"decision"}
    inputs = {"00000": {"url": "/elsewhere", "size": 1, "etag": "", "first": 0, "last": 3}}
    remark(output, "00000000", decision_key="d" * 12, inputs=inputs)
    assert [what for what, _ in check(output)] == ["map"]
    remark(output, "00000001")
    url = output.layout.pack_manifest(0, "00000001")
    value = json.loads(Path(url).read_text())
    del value["files"]["parquet"]
    Path(url).write_text(json.dumps(value))
    assert [what for what, _ in check(output, 1)] == ["sidecars"]


def test_an_input_that_changed(output: Output) -> None:
    Path(output.inventory.shards[0].url).write_bytes(numbered("z", 3))
    assert {what for what, _ in check(output)} >= {"input", "tar"}
    assert check(output, 1) == []


def test_an_input_whose_ledger_changed(output: Output) -> None:
    damage(output.layout.ledger("00001"), lambda data: data + b"?")
    assert [what for what, _ in check(output)] == [what for what, _ in check(output, 1)] == ["input"]


def test_the_map_covers_what_was_recorded(output: Output) -> None:
    packed = packmap.load(output.layout, output.storage)
    assert verify_map(packed, {"00000": 2, "00001": 2}, output.layout) == []
    found = verify_map(packed, {"00000": 3, "00002": 1}, output.layout)
    assert [(violation.shard, violation.what) for violation in found] == [
        ("00002", "not_packed"), ("00000", "map"), ("00001", "map"),
    ]  # fmt: skip
