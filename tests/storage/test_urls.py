"""Which URLs are accepted, and how they are compared."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif.errors import UsageError
from ecif.storage import Storage, is_inside, is_remote, join
from ecif.storage.urls import folder_of, normalise


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("/a/b/../c.tar", "/a/c.tar"),
        ("/a//b/./c/", "/a/b/c"),
        ("file:///a/b.tar", "/a/b.tar"),
        ("file://localhost/a", "/a"),
        ("FILE:/a", "/a"),
        ("s3://b/x/../c", "s3://b/c"),
        ("S3://b/./c/", "s3://b/c"),
        ("s3://b", "s3://b"),
        ("s3://b/a//c", "s3://b/a//c"),
        ("s3://b/%2e%2e/c", "s3://b/%2e%2e/c"),
        ("memory:///a/b", "memory://a/b"),
        ("memory://a/../b", "memory://b"),
        ("https://Host.Example/A/b.tar", "https://host.example/A/b.tar"),
        ("gs://b/k", "gs://b/k"),
        ("az://c/k", "az://c/k"),
        ("abfs://c@account.dfs.core.windows.net/k", "abfs://c@account.dfs.core.windows.net/k"),
    ],
)
def test_one_spelling_per_file(url: str, normal: str) -> None:
    assert Storage().check(url) == normal
    assert Storage().check(normal) == normal


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage().check("a/../b.tar") == str(tmp_path / "b.tar")
    assert Storage().check("./a:b.tar") == str(tmp_path / "a:b.tar")


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("", "not a path"),
        ("a\0b", "not a path"),
        ("pipe:cat /etc/passwd", "pipe"),
        ("simplecache::s3://b/k", "chained"),
        ("zip://a.zip::s3://b/k", "chained"),
        ("zip://x", "zip"),
        ("ftp://host/x", "ftp"),
        ("s3a://b/x", "s3a"),
        ("github://x:y@z/p", "github"),
        ("s3:b/k", "two slashes"),
        ("s3:///k", "bucket"),
        ("s3://b/../c", "above"),
        ("s3://../c", "bucket"),
        ("s3://b/x/../../c", "above"),
        ("memory://../x", "above"),
        ("file://other/x", "absolute"),
        ("http://user:secret@host/x", "user names"),
        ("http://host/a/%2e%2e/b", "encoded"),
        ("http://host/a/.%2E/b", "encoded"),
        ("http://host/a/x%2f..%2f..%2fb", "encoded"),
        ("odd:name.tar", "./odd:name.tar"),
    ],
)
def test_refused_urls(url: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        Storage().check(url)


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        Storage().check("https://user:hidden@host/x")
    assert "hidden" not in str(caught.value)


def test_web_servers_are_for_reading() -> None:
    assert Storage().check("https://host/x.tar") == "https://host/x.tar"
    with pytest.raises(UsageError, match="reading"):
        Storage().check("https://host/x.tar", write=True)
    with pytest.raises(UsageError, match="reading"):
        Storage().publish("https://host/x.tar", b"")
    with pytest.raises(UsageError, match="listed"):
        Storage().list("https://host/x")


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("s3://bucket/raw", True),
        ("s3://bucket/raw/a.tar", True),
        ("s3://bucket/raw/x/../a.tar", True),
        ("s3://bucket/raw-private/a.tar", False),
        ("s3://bucket/raw/../raw-private/a.tar", False),
        ("s3://bucket/raw/../../raw/a.tar", False),
        ("s3://bucket/ra*/a.tar", False),
        ("s3://other/raw/a.tar", False),
        ("gs://bucket/raw/a.tar", False),
        ("/data/a", True),
        ("file:///data/a", True),
        ("/data/../etc/passwd", False),
        ("/database", False),
        ("http://host/x", False),
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_allow_list(url: str, allowed: bool, slash: str) -> None:
    storage = Storage(allow=[f"s3://bucket/raw{slash}", f"/data{slash}"])
    if allowed:
        storage.check(url)
    else:
        with pytest.raises(UsageError):
            storage.check(url)


def test_a_link_does_not_lead_out_of_an_allowed_directory(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "alias").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "fine").write_bytes(b"fine")
    storage = Storage(allow=[str(tmp_path / "alias")])
    assert storage.read_bytes(str(tmp_path / "in" / "fine")) == b"fine"
    with pytest.raises(UsageError, match="allowed"):
        storage.read_bytes(str(tmp_path / "in" / "link"))


def test_every_method_checks(tmp_path: Path) -> None:
    storage = Storage(allow=["s3://bucket/raw"])
    url = str(tmp_path / "x")
    for call in (
        storage.open,
        storage.read_bytes,
        storage.read_json,
        storage.info,
        storage.exists,
        storage.glob,
        storage.list,
        storage.fingerprint,
        storage.delete,
        lambda url: storage.lookup([url]),
        lambda url: storage.publish(url, b""),
        lambda url: storage.publish_json(url, {}),
    ):
        with pytest.raises(UsageError, match="allowed"):
            call(url)


def test_inside(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert is_inside(str(tmp_path / "link" / "out"), str(tmp_path / "real"))
    assert is_inside(str(tmp_path / "real"), str(tmp_path / "real") + "/")
    assert not is_inside(str(tmp_path / "real-too"), str(tmp_path / "real"))
    assert not is_inside(str(tmp_path / "real" / ".." / "x"), str(tmp_path / "real"))
    assert is_inside("/anything", "/")
    assert is_inside("s3://b/raw/clean", "s3://b/raw/")
    assert is_inside("s3://b/raw", "s3://b")
    assert not is_inside("s3://b/raw-clean", "s3://b/raw")
    assert not is_inside("s3://b/raw/../clean", "s3://b/raw")
    assert not is_inside("/b/raw", "s3://b")


def test_join_folder_and_remote() -> None:
    assert join("s3://b/raw/", "a", "b.tar") == "s3://b/raw/a/b.tar"
    assert join("/", "a") == "/a"
    assert join("memory://", "a") == "memory://a"
    assert folder_of("s3://b/raw/a.tar") == "s3://b/raw"
    assert folder_of("s3://b/a.tar") == "s3://b"
    assert folder_of("memory://a.tar") == "memory://"
    assert folder_of("/a.tar") == "/"
    assert [is_remote(url) for url in ("s3://b", "memory://x", "http://h/x")] == [True] * 3
    assert [is_remote(url) for url in ("a/b", "/a", "file:///a", "./s3:b")] == [False] * 4


_SEGMENTS = st.sampled_from(["a", "b", "..", ".", "", "a.b", "..."])


@given(st.lists(_SEGMENTS, max_size=8), st.sampled_from(["s3://bk/", "memory://", "file:///", "/"]))
def test_normalising_is_idempotent_and_leaves_no_dots(segments: list[str], start: str) -> None:
    try:
        normal = normalise(start + "/".join(segments))
    except UsageError:
        assert ".." in segments
        return
    assert normalise(normal) == normal
    assert not {".", ".."} & set(normal.split("/"))
    assert is_inside(normal, start)


def test_a_storage_can_be_sent_to_another_process_and_shows_no_secret(tmp_path: Path) -> None:
    storage = Storage({"key": "k", "secret": "hidden"}, [str(tmp_path)])
    copy = pickle.loads(pickle.dumps(storage))
    with pytest.raises(UsageError, match="allowed"):
        copy.check("/elsewhere")
    assert "hidden" not in repr(storage)
