"""Lists in one pass: who goes, who stays, and that members flow where nothing has to be looked into."""

from __future__ import annotations

import hashlib
import json
import tarfile
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecif import ledger, lists
from ecif.errors import BadTarError, InputError
from ecif.manifest import Manifest
from ecif.selection import Decision
from ecif.shards.samples import stretches
from ecif.shards.tar import Limits
from ecif.stages.apply import apply_shard
from tests.shards.tars import Entry, Tar, pack, sample, tars, webdataset_samples
from tests.stages.outputs import Output, policy, scores_of, shelve

UIDS = {key: hashlib.sha256(f"00000/{key}".encode()).hexdigest()[:32] for key in "abcde"}


def record(key: str, **more: str) -> bytes:
    return json.dumps({"url": f"https://x/{key}.jpg", "key": key, **more}).encode()


SHA = "ab" * 32
FIVE = pack(
    [
        Entry("__meta__", b"m"),
        *sample("a", image=b"image of a", json=record("a")),
        *sample("b", image=b"image of b", json=record("b", sha256=SHA)),
        Entry("README", b"r"),
        *sample("c", image=b"image of c", json=b"no json"),
        Entry("d.txt", b"no image"),
        Entry("folder", type=tarfile.DIRTYPE),
        *sample("e", image=b"image of e"),
        Entry("__end__", b"last"),
    ]
)


def decided(output: Output, drop: str, unscored: str = "keep", deny: str = "", allow: str = "") -> Decision:
    decision = output.decide(policy(drop, unscored))
    for kind, setting, text in (("deny", "denylist", deny), ("allow", "allowlist", allow)):
        if text:
            frozen = lists.freeze(text.encode(), "list.txt")
            output.storage.publish(output.layout.list_of(decision.key, kind), frozen)
            change: dict[str, Any] = {setting: lists.digest(frozen)}
            decision = replace(decision, **change)
    return decision


def applied(
    output: Output, decision: Decision, limits: Limits = Limits()
) -> tuple[Manifest, dict[str, str], list[str]]:
    """The manifest, reasons by key, and the keys in the tar."""
    done = apply_shard(output.shard, decision, output.layout, output.storage, limits)
    url = output.layout.ledger("00000")
    table = ledger.read(output.bytes_of(url), url)
    kept = webdataset_samples(output.bytes_of(output.layout.tar("00000"))) if "tar" in done.files else []
    return done, dict(table.select("key", "reason").iter_rows()), [found["__key__"] for found in kept]


@pytest.mark.parametrize(
    ("entry", "gone", "reason"),
    [
        ("key:c", "c", "denied:key"),
        ("sample:00000/c", "c", "denied:sample"),
        ("sample:00001/c", "", ""),
        (f"uid:{UIDS['e']}", "e", "denied:uid"),
        ("https://x/a.jpg", "a", "denied:url"),
        ("https://x/c.jpg", "", ""),
        (SHA, "b", "denied:sha256"),
        (hashlib.sha256(b"image of e").hexdigest(), "e", "denied:sha256"),
        ("key:d", "d", "denied:key"),
        ("key:d\nhttps://x/d.jpg", "d", "denied:key"),
    ],
)
def test_the_denylist_by_every_kind(tmp_path: Path, entry: str, gone: str, reason: str) -> None:
    output = shelve(tmp_path, {"00000": FIVE})
    done, reasons, kept = applied(output, decided(output, "0", deny=entry))
    assert reasons == ({gone: reason} if gone else {})
    assert kept == [key for key in "abcde" if key != gone]
    assert (done.dropped, done.denied, done.spared, done.unscored) == (len(gone), len(gone), 0, 1)


@pytest.mark.parametrize("entry", ["key:a", f"uid:{UIDS['a']}", "https://x/a.jpg", "sample:00000/a"])
def test_the_allowlist_keeps_what_the_policy_would_drop(tmp_path: Path, entry: str) -> None:
    output = shelve(tmp_path, {"00000": FIVE})
    decision = decided(output, "0.5", allow=entry)
    done, reasons, kept = applied(output, decision)
    # The policy counts without the list: two were to go, one does.
    assert (decision.n_dropped, done.dropped, done.spared, done.denied) == (2, 1, 1, 0)
    assert (reasons, kept) == ({"b": "policy"}, ["a", "c", "d", "e"])


def test_the_allowlist_keeps_the_unscored_and_the_denylist_goes_before_it(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": FIVE})
    decision = decided(output, "0", "quarantine", deny="key:a\nhttps://x/b.jpg\nkey:c", allow="key:d\nkey:b\nkey:c")
    done, reasons, kept = applied(output, decision)
    assert reasons == {"a": "denied:key", "b": "denied:url", "c": "denied:key"}
    assert kept == ["d", "e"]
    assert (done.dropped, done.denied, done.quarantined, done.spared) == (3, 3, 0, 1)


def test_quarantined_samples_that_were_looked_into(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": FIVE})
    done, reasons, _ = applied(output, decided(output, "0", "quarantine", deny="https://x/a.jpg"))
    assert reasons == {"a": "denied:url", "d": "unscored:no_image"}
    assert output.bytes_of(output.layout.quarantine("00000")) == pack([Entry("d.txt", b"no image")])
    assert (done.quarantined, done.dropped) == (1, 1)


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(
    tars(max_samples=4),
    st.sampled_from(["0", "0.5", "1"]),
    st.sampled_from(["keep", "drop", "quarantine"]),
    st.integers(0, 3),
)
def test_looking_into_samples_changes_no_byte(
    tmp_path_factory: pytest.TempPathFactory, data: Tar, drop: str, unscored: str, step: int
) -> None:
    """An entry that matches nothing forces the slow way, which has to write what the fast one writes."""
    n = len(webdataset_samples(data))
    statuses = ["no_caption" if step and i % step == 1 else "ok" for i in range(n)]
    table = scores_of(data, "00000", [float(i) for i in range(n)], statuses)
    written = []
    for deny in ("", "https://nowhere/x.jpg"):
        output = shelve(tmp_path_factory.mktemp("shelf"), {"00000": data}, scores={"00000": table})
        done, _, _ = applied(output, decided(output, drop, unscored, deny=deny))
        root = Path(output.layout.root)
        skip = ("inventory", "manifest", "decision")
        files = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
        written.append({name: p.read_bytes() for name, p in files.items() if not any(part in name for part in skip)})
        assert done.samples == n
    assert written[0] == written[1]


def test_a_list_that_was_changed_is_refused(tmp_path: Path) -> None:
    output = shelve(tmp_path, {"00000": FIVE})
    decision = decided(output, "0", deny="key:a")
    Path(output.layout.list_of(decision.key, "deny")).write_bytes(b"key:b\n")
    with pytest.raises(InputError, match="not the list that the decision was made with"):
        applied(output, decision)
    assert not output.storage.exists(output.layout.tar("00000"))


def test_a_member_larger_than_the_limits_flows_but_is_not_looked_into(tmp_path: Path) -> None:
    data = pack([*sample("a", image=bytes(3_000_000)), Entry("b.bin", bytes(12_000_000)), *sample("c")])
    output = shelve(tmp_path, {"00000": data})
    tight = Limits(member_bytes=1_000_000, sample_bytes=5_000_000, members_per_sample=1)
    with pytest.raises(BadTarError, match="cannot be compared with the lists") as caught:
        applied(output, decided(output, "0", deny="https://x"), tight)
    assert caught.value.member == "b.bin"
    assert not [path for path in Path(output.layout.root).rglob("*") if path.suffix in (".tar", ".tmp")]
    decision = decided(output, "0")
    del data
    tracemalloc.start()
    try:
        done = apply_shard(output.shard, decision, output.layout, output.storage, tight)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert done.kept == 3
    assert output.bytes_of(output.layout.tar("00000")) == Path(output.shard.url).read_bytes()
    assert peak < 32_000_000


class Stop(BaseException):
    """What no handler of errors catches, like an interrupt."""


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, ValueError])
def test_an_interrupt_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    output = shelve(tmp_path, {"00000": FIVE})
    decision = decided(output, "0.5", "quarantine")
    before = sorted(Path(output.layout.root).rglob("*"))

    def interrupted(scan: Any) -> Iterator[Any]:
        for number, item in enumerate(stretches(scan)):
            if number == 6:
                raise error
            yield item

    monkeypatch.setattr("ecif.stages.parting.stretches", interrupted)
    with pytest.raises(error):
        apply_shard(output.shard, decision, output.layout, output.storage)
    left = [path for path in Path(output.layout.root).rglob("*") if path.is_file() and path not in before]
    assert left == []
