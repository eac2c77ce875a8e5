"""What a look finds, when it waits, and what an event may name."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif import inventory
from ecif.arrivals import LONGEST_PREFIX, admit, as_prefix, fewest, look, shared_prefix, steady
from ecif.errors import MissingFileError, UsageError
from ecif.layout import Layout
from ecif.settings import Settings
from ecif.sources import expand
from ecif.storage import Storage
from tests.conftest import Bucket, MakeTar

ROOTS = ("s3://bucket/raw", "/data/in")


def _settings(out: str, *, drop: str | None = "0.1") -> Settings:
    return Settings(out=out, drop=None if drop is None else Decimal(drop))


def _list(sources: list[str], out: str) -> None:
    """Take the inventory of what is there."""
    storage = Storage()
    inventory.take(expand(sources, storage), Layout(out), storage, {})


@pytest.fixture
def raw(tmp_path: Path, make_tar: MakeTar) -> Path:
    """Three tars in two directories."""
    for number, name in enumerate(("a/00000", "a/00001", "b/00000")):
        tar = tmp_path / "raw" / f"{name}.tar"
        tar.parent.mkdir(parents=True, exist_ok=True)
        tar.write_bytes(make_tar(2, seed=number))
    return tmp_path / "raw"


def _finish(out: str, *names: str) -> None:
    for name in names:
        Storage().publish(Layout(out).manifest(name), b"{}")


def test_all_is_new_to_an_output_that_does_not_exist(raw: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    found = look([str(raw)], _settings(out))
    assert [shard.name for shard in found.new] == ["a/00000", "a/00001", "b/00000"]
    assert (found.unfinished, found.decided, found.prefix()) == ((), False, None)
    assert not Path(out).exists()


def test_what_is_listed_is_unfinished_until_it_has_a_manifest(raw: Path, tmp_path: Path, make_tar: MakeTar) -> None:
    out = str(tmp_path / "out")
    _list([str(raw)], out)
    _finish(out, "a/00000", "b/00000")
    found = look([str(raw)], _settings(out))
    assert ([shard.name for shard in found.unfinished], found.new) == (["a/00001"], ())
    (raw / "b" / "00001.tar").write_bytes(make_tar(1, seed=9))
    found = look([str(raw)], _settings(out))
    assert [shard.name for shard in found.wanted] == ["b/00001", "a/00001"]
    assert found.headline() == "4 shards, 1 of them new, 1 begun and not finished"
    _finish(out, "a/00001")
    _list([str(raw)], out)
    _finish(out, "b/00001")
    assert look([str(raw)], _settings(out)).wanted == ()


def test_without_a_policy_scores_finish_a_shard(raw: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    _list([str(raw)], out)
    Storage().publish(Layout(out).scores("key", "a/00000"), b"")
    found = look([str(raw)], _settings(out, drop=None))
    assert [shard.name for shard in found.unfinished] == ["a/00001", "b/00000"]
    assert found.prefix() == f"{raw}/"


def test_the_prefix_holds_all_and_no_more_once_there_is_a_decision(
    raw: Path, tmp_path: Path, make_tar: MakeTar
) -> None:
    out = str(tmp_path / "out")
    _list([str(raw)], out)
    _finish(out, "a/00000", "a/00001", "b/00000")
    (raw / "b" / "00001.tar").write_bytes(make_tar(1, seed=9))
    assert look([str(raw)], _settings(out)).prefix() is None
    Storage().publish(Layout(out).applied(), b"{}")
    assert look([str(raw)], _settings(out)).prefix() == f"{raw}/b/"


def test_the_digest_is_that_of_what_is_to_be_done(raw: Path, tmp_path: Path, make_tar: MakeTar) -> None:
    out = str(tmp_path / "out")
    first = look([str(raw)], _settings(out)).digest()
    assert look([str(raw)], _settings(out)).digest() == first
    assert look([str(raw)], _settings(f"{out}2")).digest() != first
    (raw / "b" / "00001.tar").write_bytes(make_tar(1, seed=9))
    assert look([str(raw)], _settings(out)).digest() != first


def test_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        look([str(tmp_path / "nowhere")], _settings(str(tmp_path / "out")))


def test_a_look_works_on_an_object_store(s3_bucket: Bucket, make_tar: MakeTar) -> None:
    for name in ("raw/00000.tar", "raw/new/00000.tar", "raw/new/00001.tar"):
        s3_bucket.client().put_object(Bucket=s3_bucket.name, Key=name, Body=make_tar(1))
    settings = Settings(out=f"{s3_bucket.url}/clean", storage_options=s3_bucket.options, drop=Decimal("0.1"))
    layout, storage = Layout(settings.out), settings.storage()
    inventory.take(expand([f"{s3_bucket.url}/raw/00000.tar"], storage), layout, storage, {})
    storage.publish(layout.manifest("00000"), b"{}")
    storage.publish(layout.applied(), b"{}")
    found = look([f"{s3_bucket.url}/raw/"], settings)
    assert [shard.name for shard in found.new] == ["new/00000", "new/00001"]
    assert found.prefix() == f"{s3_bucket.url}/raw/new/"


def test_it_waits_for_a_copy_that_is_under_way_and_for_the_sidecars(raw: Path, tmp_path: Path) -> None:
    whole = (raw / "a" / "00000.tar").read_bytes()
    growing = raw / "c.tar"
    growing.write_bytes(whole[:700])
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 1:
            growing.write_bytes(whole)
        if len(naps) == 2:
            (raw / "c_stats.json").write_text('{"successes": 2}')
        if len(naps) == 3:
            (raw / "d.tar").write_bytes(whole)

    found = steady([str(raw)], _settings(str(tmp_path / "out")), quiet=5, longest=600, sleep=nap)
    assert [shard.name for shard in found.new][-2:] == ["c", "d"]
    assert naps == [5, 5, 5, 5]


def test_it_does_not_wait_for_ever_nor_for_nothing(raw: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        (raw / f"more-{len(naps)}.tar").write_bytes(b"x")

    steady([str(raw)], _settings(out), quiet=10, longest=40, sleep=nap)
    assert len(naps) == 4
    naps.clear()
    _list([str(raw / "a")], str(tmp_path / "listed"))
    steady([str(raw / "a")], _settings(str(tmp_path / "listed")), quiet=10, longest=40, sleep=nap)
    assert naps == []


@pytest.mark.parametrize(
    ("named", "taken"),
    [
        ("s3://bucket/raw", "s3://bucket/raw/"),
        ("s3://bucket/raw/2026/", "s3://bucket/raw/2026/"),
        ("s3://bucket/raw/x/../2026//", "s3://bucket/raw/2026/"),
        ("S3://bucket/raw/00000.tar", "s3://bucket/raw/"),
        ("file:///data/in/day", "/data/in/day/"),
    ],
)
def test_an_allowed_prefix_is_taken_in_one_spelling(named: str, taken: str) -> None:
    assert admit(named, ROOTS) == taken


@pytest.mark.parametrize(
    "named",
    [
        "s3://bucket/raw-private/",
        "s3://bucket/raw/../secret/",
        "s3://bucket/",
        "s3://Bucket/raw/",
        "s3://other/raw/",
        "s3://bucket/raw/../../other",
        "/data/in/../etc",
        "/data/inner",
        "gs://bucket/raw/",
        "pipe:cat /etc/passwd",
        "s3://bucket/raw/::zip://x",
        "https://user:word@host/raw",
        "",
        None,
        7,
        ["s3://bucket/raw/"],
        {"prefix": "s3://bucket/raw/"},
        "s3://bucket/raw/\0",
        "s3://bucket/raw/" + "x" * LONGEST_PREFIX,
    ],
)
def test_anything_else_is_refused(named: object) -> None:
    with pytest.raises(UsageError) as refused:
        admit(named, ROOTS)
    assert len(str(refused.value)) < 1000


def test_nothing_is_allowed_by_an_empty_list() -> None:
    with pytest.raises(UsageError, match="allowed"):
        admit("s3://bucket/raw/", ())


@given(st.text(max_size=40))
def test_what_is_admitted_lies_below_an_allowed_prefix(text: str) -> None:
    try:
        place = admit(f"s3://bucket/raw/{text}", ROOTS)
    except UsageError:
        return
    assert place.startswith("s3://bucket/raw/")
    assert place.endswith("/")
    assert "/../" not in place
    assert as_prefix(place) == place


def test_a_prefix_is_shared_by_whole_directories() -> None:
    assert shared_prefix(["s3://b/raw/x1/0.tar"]) == "s3://b/raw/x1/"
    assert shared_prefix(["s3://b/raw/x1/0.tar", "s3://b/raw/x2/0.tar"]) == "s3://b/raw/"
    assert shared_prefix(["s3://b/raw/x/0.tar", "s3://b/raw/x/y/0.tar"]) == "s3://b/raw/x/"
    assert shared_prefix(["/a/0.tar", "/b/0.tar"]) == "/"
    assert shared_prefix(["/0.tar"]) == "/"
    with pytest.raises(UsageError, match="several"):
        shared_prefix(["s3://b/0.tar", "s3://c/0.tar"])
    assert shared_prefix(["s3://b/0.tar", "s3://b/x/0.tar"]) == "s3://b/"


def test_few_names_stand_for_many() -> None:
    allowed = ["s3://b/raw", "s3://b/more"]
    days = [f"s3://b/raw/{day:02d}/" for day in range(5)]
    assert fewest(days, allowed, 5) == {day: day for day in days}
    assert fewest(days, allowed, 4) == dict.fromkeys(days, "s3://b/raw/")
    below = ["s3://b/raw/1/", "s3://b/raw/1/a/", "s3://b/raw/1/b/", "s3://b/raw/10/", "s3://b/more/x/"]
    stands = fewest(below, allowed, 3)
    assert stands == {
        below[0]: below[0],
        below[1]: below[0],
        below[2]: below[0],
        below[3]: below[3],
        below[4]: below[4],
    }
