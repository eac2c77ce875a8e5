"""Listing, globbing and looking up, on disk and in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from ecif.errors import StorageError
from ecif.storage import Storage, join

from .proxy import Proxy

if TYPE_CHECKING:
    from ..conftest import Bucket


def test_list_and_glob(root: str) -> None:
    storage = Storage()
    for name in ("b.tar", "a.tar", "a.json", "sub/c.tar", "sub/deep/d.tar", ".hidden.0.tmp", "sub/.x.1.tmp"):
        storage.publish(join(root, name), name.encode())
    storage.publish(root + "-private/z.tar", b"")

    def names(files: list[object]) -> list[str]:
        return [str(getattr(file, "url", "")).removeprefix(storage.check(root) + "/") for file in files]

    assert names([*storage.list(root)]) == ["a.json", "a.tar", "b.tar", "sub/c.tar", "sub/deep/d.tar"]
    assert names([*storage.list(root + "/", ".tar")]) == ["a.tar", "b.tar", "sub/c.tar", "sub/deep/d.tar"]
    assert names([*storage.list(root, recursive=False)]) == ["a.json", "a.tar", "b.tar"]
    assert names([*storage.glob(join(root, "*.tar"))]) == ["a.tar", "b.tar"]
    assert names([*storage.glob(join(root, "*"))]) == ["a.json", "a.tar", "b.tar"]
    assert names([*storage.glob(join(root, "sub/[a-c].tar"))]) == ["sub/c.tar"]
    assert names([*storage.glob(join(root, "**/*.tar"))]) == ["a.tar", "b.tar", "sub/c.tar", "sub/deep/d.tar"]
    assert [file.size for file in storage.list(root, ".json")] == [6]


def test_lookup_asks_or_lists(root: str) -> None:
    storage = Storage()
    names = [f"{i:03d}.tar" for i in range(0, 80, 2)]
    for name in names:
        storage.publish(join(root, name), b"x")
    base = storage.check(root)
    wanted = [f"{base}/{i:03d}.tar" for i in range(80)] + [f"{base}/sub/1.tar"]
    many = storage.lookup(wanted)
    assert sorted(many) == [f"{base}/{name}" for name in names]
    few = storage.lookup(wanted[:5])
    assert few == {url: many[url] for url in wanted[:5:2]}


def test_links_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.tar").write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "y.tar").write_bytes(b"y")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a" / "dangling.tar").symlink_to(tmp_path / "nowhere")
    found = [file.url for file in Storage().list(str(tmp_path / "a"), ".tar")]
    assert found == [str(tmp_path / "a" / "other" / "y.tar"), str(tmp_path / "a" / "x.tar")]


_NAMES = st.lists(st.sampled_from(["a", "a.tar", "a-b", "a0", "a b", "é", "A", "~", "b"]), min_size=1, max_size=3)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(_NAMES.map("/".join), max_size=8))
def test_the_order_is_that_of_the_urls(tmp_path: Path, names: set[str]) -> None:
    """`a.tar` comes before `a/b`, though `a` comes before `a.tar`."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    made = set()
    for name in sorted(names):
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch(exist_ok=False)
            made.add(name)
        except OSError:  # it is a directory already, or below a file
            continue
    found = [file.url.removeprefix(f"{folder}/") for file in Storage().scan(str(folder))]
    assert found == sorted(made, key=lambda name: name.encode())


def test_scanning_s3_page_by_page(s3_bucket: Bucket, through: Storage, proxy: Proxy) -> None:
    names = [f"raw/{number:04d}{end}" for number in range(600) for end in (".parquet", ".tar")]
    server = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for name in names:
        server.put_object(s3_bucket.name, name, b"")
    scan = through.scan(f"{s3_bucket.url}/raw", ".tar")
    assert isinstance(scan, Iterator)
    assert next(scan).url.endswith("/0000.tar")
    assert proxy.done == ["ListObjectsV2"]
    assert len([*scan]) == 599
    assert proxy.done == ["ListObjectsV2"] * 2
    proxy.done.clear()
    wanted = [f"{s3_bucket.url}/raw/{number:04d}.tar" for number in range(550, 620)]
    assert sorted(through.lookup(wanted)) == wanted[:50]
    assert proxy.done == ["ListObjectsV2"]  # from the first one that is asked for


@pytest.mark.usefixtures("rushing")
@pytest.mark.parametrize("fault", [500, 503, "lost", "dropped", "cut"], ids=str)
def test_a_page_that_fails_once(
    s3_bucket: Bucket, storage: Storage, through: Storage, proxy: Proxy, fault: str
) -> None:
    storage.publish(f"{s3_bucket.url}/raw/a", b"x")
    proxy.on = lambda operation: fault if len(proxy.done) == 1 else None
    assert [file.size for file in through.scan(f"{s3_bucket.url}/raw")] == [1]
    proxy.done.clear()
    assert [file.size for file in through.glob(f"{s3_bucket.url}/r*/?")] == [1]


def test_a_refusal_while_scanning(s3_bucket: Bucket, through: Storage, proxy: Proxy) -> None:
    proxy.on = lambda operation: 403
    with pytest.raises(StorageError, match="cannot list: access denied"):
        next(through.scan(f"{s3_bucket.url}/raw"))
    assert proxy.done == ["ListObjectsV2"]
