"""Members become samples exactly as webdataset groups them, and none is lost on the way."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset import tariterators

from ecif.errors import BadTarError
from ecif.shards import names
from ecif.shards.samples import Sample, group
from ecif.shards.tar import Limits, Member, read_members
from tests.shards.tars import Entry, Tar, pack, sample, tars, webdataset_samples


def grouped(entries: list[Entry]) -> list[Sample | Member]:
    return list(group(read_members(io.BytesIO(pack(entries)), "x.tar")))


def samples(entries: list[Entry]) -> list[Sample]:
    return [item for item in grouped(entries) if isinstance(item, Sample)]


@settings(deadline=None)
@given(st.text(st.sampled_from("ab._/-\n ü"), max_size=12))
def test_names_are_split_as_webdataset_does(name: str) -> None:
    key, extension = tariterators.base_plus_ext(name)
    found = names.split(name)
    if name.startswith("__"):
        assert found is None or found == (key, extension.lower())
    else:
        assert found == (None if key is None else (key, extension.lower()))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("000.jpg", ("000", "jpg")),
        ("000.JPG", ("000", "jpg")),
        ("a/b.c/000.seg.PNG", ("a/b.c/000", "seg.png")),
        ("./000.jpg", ("./000", "jpg")),
        ("000", None),
        (".hidden", None),
        ("a.b/000", None),
        ("__meta__", None),
        ("__meta__/000.jpg", None),
        ("__meta__.json", ("__meta__", "json")),
        ("a/__meta__", None),
    ],
)
def test_the_rule(name: str, expected: tuple[str, str] | None) -> None:
    assert names.split(name) == expected


@settings(deadline=None, max_examples=60)
@given(tars())
def test_samples_are_those_of_webdataset(data: Tar) -> None:
    found = [item for item in group(read_members(io.BytesIO(data), "x.tar")) if isinstance(item, Sample)]
    expected = webdataset_samples(data)
    assert [s.key for s in found] == [s["__key__"] for s in expected]
    assert [s.index for s in found] == list(range(len(found)))
    assert all(s.problem is None for s in found)
    for ours, theirs in zip(found, expected, strict=True):
        payloads = {extension: bytes(member.data) for extension, member in ours.extensions().items()}
        assert payloads == {name: value for name, value in theirs.items() if name != "__key__"}


@settings(deadline=None, max_examples=60)
@given(tars())
def test_every_member_comes_out_once_and_in_order(data: Tar) -> None:
    members = list(read_members(io.BytesIO(data), "x.tar"))
    out: list[Member] = []
    for item in group(members):
        out += item.in_order if isinstance(item, Sample) else [item]
    assert out == members


def test_members_of_no_sample_stay_where_they_are() -> None:
    folder = Entry("folder", type=tarfile.DIRTYPE)
    items = grouped([folder, Entry("a.jpg"), folder, Entry("a.txt"), Entry("README"), Entry("b.txt")])
    assert [getattr(item, "key", getattr(item, "name", "")) for item in items] == ["folder", "a", "README", "b"]
    first = items[1]
    assert isinstance(first, Sample)
    assert [m.name for m in first.members] == ["a.jpg", "a.txt"]
    assert [m.name for m in first.between] == ["folder"]
    assert [m.name for m in first.in_order] == ["a.jpg", "folder", "a.txt"]


def test_a_key_that_comes_back_is_a_duplicate_and_the_first_is_fine() -> None:
    found = samples([*sample("a"), *sample("b"), *sample("a"), *sample("a")])
    assert [(s.key, s.problem) for s in found] == [("a", None), ("b", None), ("a", "duplicate_key")]
    assert len(found[2].members) == 4


def test_interleaved_members_are_duplicates() -> None:
    found = samples([Entry("a.jpg"), Entry("b.jpg"), Entry("a.txt"), Entry("b.txt")])
    assert [s.problem for s in found] == [None, None, "duplicate_key", "duplicate_key"]


def test_two_members_with_the_same_extension_are_a_problem_as_in_webdataset() -> None:
    entries = [Entry("a.jpg", b"1"), Entry("a.JPG", b"2"), Entry("a.txt")]
    found = samples(entries)
    assert [s.problem for s in found] == ["duplicate_member"]
    assert bytes(found[0].extensions()["jpg"].data) == b"1"
    with pytest.raises(ValueError, match="duplicate"):
        webdataset_samples(pack(entries))


def test_the_hash_is_of_the_raw_members() -> None:
    data = pack(sample("a"))
    (found,) = group(read_members(io.BytesIO(data), "x.tar"))
    assert isinstance(found, Sample)
    assert found.sha256() == hashlib.sha256(data[:2048]).hexdigest()


def test_a_sample_has_limits() -> None:
    many = [Entry(f"a.{i}") for i in range(5)]
    members = list(read_members(io.BytesIO(pack(many)), "x.tar"))
    assert len(list(group(members, Limits(members_per_sample=5)))) == 1
    with pytest.raises(BadTarError, match=r"x\.tar.*more than 4 members"):
        list(group(members, Limits(members_per_sample=4), "x.tar"))
    with pytest.raises(BadTarError, match="limit of 2000 bytes"):
        list(group(members, Limits(sample_bytes=2000)))


def test_samples_come_out_as_soon_as_they_are_complete() -> None:
    """Memory is one sample: the next one's first member is all that is read ahead."""
    taken: list[str] = []

    def members() -> object:
        for member in read_members(io.BytesIO(pack([*sample("a"), *sample("b"), *sample("c")])), "x.tar"):
            taken.append(member.name)
            yield member

    stream = group(members())  # type: ignore[arg-type]
    next(stream)
    assert taken == ["a.jpg", "a.txt", "b.jpg"]
