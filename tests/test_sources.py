"""What people type, and the names that shards get from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif import sources
from ecif.errors import MissingFileError, UsageError
from ecif.sources import Expansion, Found, expand, sidecars_of
from ecif.storage import Storage, join

if TYPE_CHECKING:
    from .conftest import Bucket


@pytest.fixture
def storage() -> Storage:
    return Storage()


def _touch(root: str, *names: str) -> None:
    for name in names:
        Storage().publish(join(root, name), name.encode())


def _names(expansion: Expansion) -> list[str]:
    return [found.name for found in expansion.shards]


@pytest.fixture(params=["local", "file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return str(request.getfixturevalue("memory_root"))
    return f"file://{tmp_path}" if request.param == "file" else str(tmp_path)


def test_one_tar(root: str, storage: Storage) -> None:
    _touch(root, "raw/00000.tar")
    url = join(root, "raw/00000.tar")
    assert expand([url], storage) == Expansion((Found("00000", storage.check(url)),), ())


def test_a_brace_range_with_gaps(root: str, storage: Storage) -> None:
    _touch(root, "raw/00000.tar", "raw/00002.tar")
    base = storage.check(join(root, "raw"))
    found = expand([join(root, "raw/{00000..00003}.tar")], storage)
    assert found.shards == (Found("00000", f"{base}/00000.tar"), Found("00002", f"{base}/00002.tar"))
    assert found.missing == (f"{base}/00001.tar", f"{base}/00003.tar")


def test_a_long_brace_range(root: str, storage: Storage) -> None:
    _touch(root, "raw/00017.tar", "raw/09999.tar", "raw/10000.tar")
    found = expand([join(root, "raw/{00000..09999}.tar")], storage)
    assert _names(found) == ["00017", "09999"]
    assert len(found.missing) == 9998


def test_braces_in_directories_keep_the_directory(root: str, storage: Storage) -> None:
    _touch(root, "raw/a/0.tar", "raw/b/0.tar", "raw/b/1.tar", "raw/c/0.tar")
    assert _names(expand([join(root, "raw/{a,b}/{0..1}.tar")], storage)) == ["a/0", "b/0", "b/1"]
    assert _names(expand([join(root, "raw/{a,c}/*.tar")], storage)) == ["a/0", "c/0"]


def test_globs(root: str, storage: Storage) -> None:
    _touch(root, "raw/0.tar", "raw/1.tar", "raw/1.parquet", "raw/deep/2.tar")
    assert _names(expand([join(root, "raw/*.tar")], storage)) == ["0", "1"]
    assert _names(expand([join(root, "raw/[1-9].tar")], storage)) == ["1"]
    assert _names(expand([join(root, "r*/?.tar")], storage)) == ["raw/0", "raw/1"]
    assert _names(expand([join(root, "raw/**/*.tar")], storage)) == ["0", "1", "deep/2"]


def test_a_directory(root: str, storage: Storage) -> None:
    _touch(root, "raw/1.tar", "raw/0.tar", "raw/deep/2.tar", "raw/0_stats.json", "raw/_ecif/quarantine/0.tar")
    for text in (join(root, "raw"), join(root, "raw") + "/"):
        assert _names(expand([text], storage)) == ["0", "1", "deep/2"]


def test_a_list(root: str, storage: Storage) -> None:
    _touch(root, "raw/a/0.tar", "raw/a/1.tar", "raw/b/0.tar", "raw/b/1.tar")
    lines = ["# two places", join(root, "raw/a/0.tar"), "", "  raw/b/{0..2}.tar  "]
    storage.publish(join(root, "urls.txt"), ("\ufeff" + "\r\n".join(lines)).encode())
    found = expand([join(root, "urls.txt")], storage)
    assert _names(found) == ["a/0", "b/0", "b/1"]
    assert found.missing == (storage.check(join(root, "raw/b/2.tar")),)


def test_a_list_of_one_directory(root: str, storage: Storage) -> None:
    _touch(root, "raw/0.tar", "raw/1.tar")
    storage.publish(join(root, "urls.txt"), b"raw/1.tar\nraw/0.tar\n")
    assert _names(expand([join(root, "urls.txt")], storage)) == ["0", "1"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "names no file"),
        ("# nothing\n\n", "names no file"),
        ("a.tar::b.tar", "not the URL of a tar"),
        ("more.txt", "not the URL of a tar"),
        ("pipe:cat x", "pipe"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, storage: Storage, text: str, problem: str) -> None:
    (tmp_path / "urls.txt").write_text(text)
    with pytest.raises(UsageError, match=problem):
        expand([str(tmp_path / "urls.txt")], storage)


def test_lists_that_name_nothing(tmp_path: Path, storage: Storage) -> None:
    (tmp_path / "urls.txt").write_text("absent.tar\n")
    with pytest.raises(MissingFileError, match=r"absent\.tar.*urls\.txt"):
        expand([str(tmp_path / "urls.txt")], storage)
    with pytest.raises(MissingFileError, match=r"other\.txt"):
        expand([str(tmp_path / "other.txt")], storage)
    (tmp_path / "image.txt").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UsageError, match="UTF-8"):
        expand([str(tmp_path / "image.txt")], storage)


def test_a_list_across_storages(tmp_path: Path, memory_root: str, storage: Storage) -> None:
    _touch(memory_root, "0.tar")
    _touch(str(tmp_path), "1.tar")
    (tmp_path / "urls.txt").write_text(f"{memory_root}/0.tar\n{tmp_path}/1.tar\n")
    with pytest.raises(UsageError, match="several storages"):
        expand([str(tmp_path / "urls.txt")], storage)


def test_several_sources(root: str, storage: Storage) -> None:
    _touch(root, "laion/0.tar", "laion/1.tar", "cc/0.tar")
    text = f"{join(root, 'laion/{0..1}.tar')}::{join(root, 'cc')}"
    expected = ["cc/0", "laion/0", "laion/1"]
    assert _names(expand([text], storage)) == expected
    assert _names(expand(text.split("::"), storage)) == expected


def test_sources_with_one_root_need_no_prefix(root: str, storage: Storage) -> None:
    """As when the shell expands the wildcard."""
    _touch(root, "raw/0.tar", "raw/1.tar", "raw/7.tar")
    texts = [join(root, "raw/0.tar"), join(root, "raw/1.tar"), join(root, "raw/[7-9].tar")]
    assert _names(expand(texts, storage)) == ["0", "1", "7"]


def test_sources_of_the_same_name_are_told_apart(root: str, storage: Storage) -> None:
    _touch(root, "a/train/0.tar", "b/train/0.tar")
    found = expand([join(root, "a/train"), join(root, "b/train")], storage)
    assert _names(found) == ["a/train/0", "b/train/0"]


def test_the_same_url_twice(root: str, storage: Storage) -> None:
    _touch(root, "raw/0.tar", "raw/1.tar")
    with pytest.raises(UsageError, match=r"raw/1\.tar is named twice"):
        expand([join(root, "raw/{0..1}.tar"), join(root, "raw/../raw/1.tar")], storage)
    with pytest.raises(UsageError, match="twice"):
        expand([join(root, "raw/{0,1,0}.tar")], storage)
    storage.publish(join(root, "urls.txt"), b"raw/0.tar\nraw/0.tar\n")
    with pytest.raises(UsageError, match="twice"):
        expand([join(root, "urls.txt")], storage)


def test_two_urls_with_one_name(memory_root: str, storage: Storage) -> None:
    """Roots of different depth: the tail of one may be continued by the names below another."""
    top = memory_root.removeprefix("memory://")
    urls = [f"memory://{top}/a/0.tar", f"memory://{top}z/{top}/a/0.tar", f"memory://{top}q/a/0.tar"]
    for url in urls:
        storage.publish(url, b"x")
    try:
        with pytest.raises(UsageError, match=f"both be shard '{top}/a/0'") as caught:
            expand([memory_root, f"memory://{top}z/{top}/a", f"memory://{top}q/a"], storage)
        assert all(url in str(caught.value) for url in urls[:2])
    finally:
        for url in urls:
            storage.delete(url)


def test_what_is_missing(root: str, storage: Storage) -> None:
    _touch(root, "raw/0.txt", "raw/0.parquet")
    with pytest.raises(MissingFileError, match=r"absent\.tar"):
        expand([join(root, "raw/absent.tar")], storage)
    with pytest.raises(MissingFileError, match=r"none of the 5 files of '.*\{0\.\.4\}\.tar'"):
        expand([join(root, "raw/{0..4}.tar")], storage)
    with pytest.raises(MissingFileError, match="no such file or directory"):
        expand([join(root, "absent")], storage)
    with pytest.raises(UsageError, match=r"\*\.tar' matches no file"):
        expand([join(root, "raw/*.tar")], storage)
    with pytest.raises(UsageError, match="directory without any tar"):
        expand([join(root, "raw")], storage)


def test_an_empty_directory(tmp_path: Path, storage: Storage) -> None:
    with pytest.raises(UsageError, match="directory without any tar"):
        expand([str(tmp_path)], storage)


def test_other_endings(root: str, storage: Storage) -> None:
    _touch(root, "raw/0.tar.zst", "raw/0.parquet", "raw/0.tar")
    for name in ("raw/0.tar.zst", "raw/0.parquet"):
        with pytest.raises(UsageError, match="is not a tar"):
            expand([join(root, name)], storage)
    for pattern in ("raw/{0..1}.tar.zst", "raw/*", "raw/0.*"):
        with pytest.raises(UsageError, match="only tars are read"):
            expand([join(root, pattern)], storage)


def test_compressed_tars_have_plain_names(root: str, storage: Storage) -> None:
    _touch(root, "raw/0.tar", "raw/1.tar.gz", "raw/2.tgz")
    for source in ("raw", "raw/*.*", "raw/{0.tar,1.tar.gz,2.tgz}"):
        found = expand([join(root, source)], storage).shards
        assert [shard.name for shard in found] == ["0", "1", "2"]
    assert [path.rpartition("/")[2] for path in sidecars_of(found[1].url)] == ["1.parquet", "1_stats.json"]
    _touch(root, "raw/0.tar.gz")
    with pytest.raises(UsageError, match="would both be shard '0'"):
        expand([join(root, "raw")], storage)


def test_names_that_the_output_needs(root: str, storage: Storage) -> None:
    _touch(root, "raw/_ecif/0.tar", "raw/_ecifx.tar", "raw/.tar")
    with pytest.raises(UsageError, match="begin with _ecif"):
        expand([join(root, "raw/*/0.tar")], storage)
    with pytest.raises(UsageError, match="begin with _ecif"):
        expand([join(root, "raw/_ecifx.tar")], storage)
    with pytest.raises(UsageError, match="without a name"):
        expand([join(root, "raw/.tar")], storage)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pipe:cat x.tar", "pipe"),
        ("simplecache::s3://b/x.tar", "chained"),
        ("zip://x.tar::s3://b/y.zip", "zip"),
        ("ftp://host/x.tar", "ftp"),
        ("a.tar::", "empty source"),
        ("", "empty source"),
        ("raw/{0..1.tar", "nbalanced"),
        ("raw/{0..99999999}.tar", "more than"),
        ("http://host/x.tar?signature=abc", "query"),
        ("http://host/raw/", "web server"),
        ("http://host/raw/*.tar", "web servers cannot be listed"),
    ],
)
def test_refused(storage: Storage, text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        expand([text], storage)


def test_ranges_that_multiply(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(str(tmp_path), "31/31.tar")
    monkeypatch.setattr(sources, "MOST_URLS", 1024)
    found = expand([str(tmp_path / "{00..31}/{00..31}.tar")], storage)
    assert (_names(found), len(found.missing)) == (["31/31"], 1023)
    assert len(expand([str(tmp_path / "{31..0..-31}/{0..1023..31}.tar")], storage).missing) == 67
    for pattern in ("{00..31}/{00..32}.tar", "{0..1024}.tar", "{1024..0}.tar"):
        with pytest.raises(UsageError, match="more than 1,024 URLs"):
            expand([str(tmp_path / pattern)], storage)


def test_nothing_at_all(storage: Storage) -> None:
    with pytest.raises(UsageError, match="no input"):
        expand([], storage)


def test_a_name_that_looks_like_a_pattern(tmp_path: Path, storage: Storage) -> None:
    _touch(str(tmp_path), "a[1].tar", "{x}.tar")
    assert _names(expand([str(tmp_path / "a[1].tar"), str(tmp_path / "{x}.tar")], storage)) == ["a[1]", "{x}"]


def test_the_allow_list_is_asked_for_each_member(tmp_path: Path) -> None:
    _touch(str(tmp_path), "open/0.tar", "open/1.tar", "shut/0.tar", "open/urls.txt")
    storage = Storage(allow=[str(tmp_path / "open")])
    assert _names(expand([str(tmp_path / "open" / "{0..1}.tar")], storage)) == ["0", "1"]
    (tmp_path / "open" / "list.txt").write_text("../shut/0.tar\n")
    for text in ("{open,shut}/0.tar", "*/0.tar", "shut", "shut/0.tar", "open/list.txt", "open/../shut/{0,1}.tar"):
        with pytest.raises(UsageError, match="allowed"):
            expand([str(tmp_path / text)], storage)


def test_on_s3(s3_bucket: Bucket) -> None:
    storage = Storage(s3_bucket.options)
    for name in ("raw/00000.tar", "raw/00002.tar", "raw/00002.parquet", "more/00000.tar", "00009.tar"):
        storage.publish(f"{s3_bucket.url}/{name}", b"x")
    found = expand([f"{s3_bucket.url}/raw/{{00000..01242}}.tar"], storage)
    assert _names(found) == ["00000", "00002"]
    assert len(found.missing) == 1241
    assert _names(expand([f"{s3_bucket.url}/raw::{s3_bucket.url}/more/*.tar"], storage)) == [
        "more/00000",
        "raw/00000",
        "raw/00002",
    ]
    assert _names(expand([s3_bucket.url], storage)) == ["00009", "more/00000", "raw/00000", "raw/00002"]
    assert _names(expand([f"{s3_bucket.url}/*.tar"], storage)) == ["00009"]
    with pytest.raises(MissingFileError, match="raw-private"):
        expand([f"{s3_bucket.url}/raw-private"], storage)


@given(st.sets(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6))
def test_prefixes_tell_roots_apart(paths: set[tuple[str, ...]]) -> None:
    roots = {"/" + "/".join(path) for path in paths}
    try:
        prefixes = sources._prefixes(roots)
    except UsageError:
        pytest.fail("different roots can always be told apart")
    assert set(prefixes) == roots
    assert len(set(prefixes.values())) == len(roots)
    for root, prefix in prefixes.items():
        assert root.endswith(prefix)


def test_a_signed_url_is_refused_and_its_signature_not_repeated(tmp_path: Path, storage: Storage) -> None:
    listed = tmp_path / "shards.txt"
    for url in ("http://host/x.tar?sig=s3cr3t", "http://host/x?sig=s3cr3t&of=.tar", "https://host/x?s3cr3t/y.tar"):
        listed.write_text(url)
        for source in (url, str(listed)):
            with pytest.raises(UsageError, match="a query would be written") as caught:
                expand([source], storage)
            assert "s3cr3t" not in str(caught.value)
