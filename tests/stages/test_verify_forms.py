"""Outputs of every form hold, and no byte of them can be changed without a violation."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ecif import lists, manifest, packmap, packs, restores
from ecif.agreement import canonical
from ecif.interop import columns
from ecif.interop.loaders import write_index
from ecif.selection import Decision
from ecif.settings import WriteSettings
from ecif.stages.apply import apply_shard
from ecif.stages.pack import extend_map, pack_shard, record_shard
from ecif.stages.plan import mark_applied
from ecif.stages.restore import Selection, restore_shard, select
from ecif.stages.verify import Verification, verify
from tests.shards.tars import Entry, pack, sample
from tests.stages.outputs import FIT_KEY, SCORE_KEY, Output, policy, shelve

BAD = [Entry("bad.txt", b"no image here")]
URL = b'{"url": "http://example.org/f.jpg"}'
ONE = pack([Entry("__meta__", b"m"), *sample("a"), *sample("b", image=b"x" * 600), *BAD, *sample("c"), *sample("d")])
TWO = pack([*sample("e"), *sample("f", json=URL), *sample("g"), *sample("h")])
FORMS = ["plain", "lists", "restored", "packed", "columns", "scores"]


def make(folder: Path, form: str) -> Output:
    """An output of two shards in one form."""
    output = shelve(folder, {"00000": ONE, "part/00001": TWO})
    deny = "url:http://example.org/f.jpg\nkey:c" if form == "lists" else ""
    if form == "scores":
        output.storage.publish_json(output.layout.score_meta(SCORE_KEY), {"fit_key": FIT_KEY})
        for shard in output.inventory.shards:
            columns.publish_shard(shard, None, output.layout, output.storage)
        return output
    decision = decided(output, deny)
    if form == "columns":
        bind(output, decision, WriteSettings(write="columns"))
        for shard in output.inventory.shards:
            columns.publish_shard(shard, decision, output.layout, output.storage)
    elif form == "packed":
        bind(output, decision, WriteSettings(repack=3))
        repack(output, decision)
    else:
        bind(output, decision, WriteSettings())
        for shard in output.inventory.shards:
            apply_shard(shard, decision, output.layout, output.storage)
    if form == "restored":
        restore(output, decision, "a", "e", "bad")
        restore(output, decision, "b")
    write_index(output.layout, output.storage)
    return output


def decided(output: Output, deny: str) -> Decision:
    """Drop half, set aside what has no score; `deny` is a list."""
    decision = output.decide(policy("0.5", "quarantine"))
    if deny:
        url = output.layout.list_of(decision.key, "deny")
        frozen = lists.freeze(deny.encode(), url)
        output.storage.publish(url, frozen)
        decision = replace(decision, denylist=lists.digest(frozen))
        Path(output.layout.decision(decision.key)).write_bytes(canonical(decision.to_json()))
    return decision


def bind(output: Output, decision: Decision, form: WriteSettings) -> None:
    mark_applied(output.layout, output.storage, decision, form)


def repack(output: Output, decision: Decision) -> None:
    for shard in output.inventory.shards:
        record_shard(shard, decision, output.layout, output.storage)
    for target in extend_map(output.layout, output.storage, 3).targets():
        pack_shard(target, decision, output.inventory.by_name(), output.layout, output.storage)


def restore(output: Output, decision: Decision, *keys: str) -> None:
    wanted = Selection(frozenset(("key", key) for key in keys))
    selected = select(output.layout, output.storage, wanted)
    for claim in restores.claim(output.layout, output.storage, decision.key, selected):
        for name in claim.samples:
            restore_shard(output.inventory.by_name()[name], claim, decision, output.layout, output.storage)


def check(output: Output) -> Verification:
    return verify(output.layout, output.storage, output.inventory)


def proved(output: Output) -> Iterator[Path]:
    """The files that are proved: all but derived ones and those that scores were made from."""
    layout = output.layout
    for path in sorted(Path(output.layout.root).rglob("*")):
        if path.is_file() and "index" not in path.parts and path != Path(layout.score_meta(SCORE_KEY)):
            yield path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds(tmp_path: Path, form: str) -> None:
    found = check(make(tmp_path, form))
    assert found.violations == ()
    gone = {"lists": (3, 5, 1), "scores": (9, 0, 0)}.get(form, (4, 4, 1))
    assert (found.samples, (found.kept, found.dropped, found.quarantined)) == (9, gone)
    assert (found.restored, found.packed) == (4 if form == "restored" else 0, 2 if form == "packed" else 0)


@pytest.mark.parametrize("form", FORMS)
def test_any_flipped_bit_is_noticed(tmp_path: Path, form: str) -> None:
    """At a place that the form chooses, in every file that is not derived."""
    output, rng = make(tmp_path, form), random.Random(form)
    files = list(proved(output))
    assert len(files) >= 7
    for path in files:
        before = path.read_bytes()
        data = bytearray(before)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        place = next(i for i, (a, b) in enumerate(zip(before, data, strict=True)) if a != b)
        assert not check(output).ok, f"{path}: byte {place} is {data[place]:#x}, was {before[place]:#x}"
        path.write_bytes(before)
    assert check(output).ok


@pytest.mark.parametrize("form", FORMS)
def test_any_file_that_is_gone_is_noticed(tmp_path: Path, form: str) -> None:
    output = make(tmp_path, form)
    for path in proved(output):
        if "inventory" in path.parts:
            continue  # the caller has read it
        before = path.read_bytes()
        path.unlink()
        assert not check(output).ok, path
        path.write_bytes(before)
    assert check(output).ok


@pytest.mark.parametrize("kind", ["manifest", "ledger", "tar", "parquet", "quarantine"])
def test_files_of_another_shard_are_noticed(tmp_path: Path, kind: str) -> None:
    output = make(tmp_path, "plain")
    one, two = (Path(getattr(output.layout, kind)(name)) for name in ("00000", "part/00001"))
    two.parent.mkdir(parents=True, exist_ok=True)
    two.write_bytes(one.read_bytes())
    assert not check(output).ok


def test_an_index_that_counts_wrong_is_noticed(tmp_path: Path) -> None:
    output = make(tmp_path, "restored")
    for url, change in (
        (output.layout.sizes(), lambda value: value | {"00000.tar": 1}),
        (output.layout.sizes(), lambda value: value | {"00009.tar": 1}),
        (output.layout.sizes(), lambda value: {}),
        (output.layout.sizes(), lambda value: []),
        (output.layout.wids(), lambda value: value | {"shardlist": value["shardlist"][:-1]}),
        (output.layout.wids(), lambda value: value | {"shardlist": value["shardlist"] * 2}),
        (output.layout.wids(), lambda value: value | {"shardlist": value["shardlist"][::-1]}),
    ):
        before = Path(url).read_bytes()
        Path(url).write_text(json.dumps(change(json.loads(before))))
        found = check(output).violations
        assert [(one.what, one.detail.split(" ")[0]) for one in found] == [("index", url)]
        Path(url).write_bytes(before)
    Path(output.layout.sizes()).unlink()
    Path(output.layout.wids()).unlink()
    assert check(output).ok


def test_strays_of_every_kind_are_noticed(tmp_path: Path) -> None:
    output = make(tmp_path, "packed")
    root = Path(output.layout.root)
    for name in ("00009.tar", "restored-x/00000.tar", "_ecif/ledger/x.parquet", "_ecif/quarantine/x.tar",
                 "_ecif/pack/000000/00000009.json", "_ecif/restore/x/00000.parquet"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
        assert "stray" in {one.what for one in check(output).violations}, name
        (root / name).unlink()
    assert check(output).ok


def test_a_packed_shard_that_is_not_written_is_reported(tmp_path: Path) -> None:
    output = make(tmp_path, "packed")
    target = list(packmap.load(output.layout, output.storage).targets())[-1]
    for url in (output.layout.pack_manifest(0, target.name), *packs.urls(target.name, 0, output.layout).values()):
        Path(url).unlink(missing_ok=True)
    whats = {one.what for one in check(output).violations}
    assert "not_packed" in whats
    assert "bytes" not in whats


def test_a_restore_that_was_killed_is_reported(tmp_path: Path) -> None:
    output = make(tmp_path, "restored")
    record = next(iter(restores.shards(output.layout, output.storage)))
    name = record.name(output.layout)
    for url in (
        output.layout.restore(record.restore_key, record.shard),
        *(getattr(output.layout, kind)(name) for kind in ("tar", "parquet", "stats")),
    ):
        Path(url).unlink()
    assert "not_restored" in {one.what for one in check(output).violations}


def test_another_list_than_that_of_the_decision_is_noticed(tmp_path: Path) -> None:
    """Also when everything but the ledger follows from it."""
    output = make(tmp_path, "lists")
    found = manifest.read(output.layout, output.storage, "00000")
    assert found is not None
    url = output.layout.list_of(found.decision_key, "deny")
    Path(url).write_bytes(lists.freeze(b"key:d", url))
    assert "decision" in {one.what for one in check(output).violations}
