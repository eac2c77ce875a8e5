"""S3: a real server process, and a proxy in front of it for what goes wrong."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from s3fs import S3FileSystem

from ecif.errors import ConflictError, MissingFileError, StorageError, UsageError
from ecif.storage import Storage

from .proxy import CUT, Proxy

if TYPE_CHECKING:
    from ..conftest import Bucket


def test_read_and_info(s3_bucket: Bucket, storage: Storage) -> None:
    url = f"{s3_bucket.url}/raw/a.bin"
    data = os.urandom(100_000)
    published = storage.publish(url, data)
    assert (published.size, published.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    info = storage.info(url)
    assert (info.url, info.size, info.etag) == (url, len(data), hashlib.md5(data).hexdigest())
    assert storage.fingerprint(url) == f"etag-{info.etag}-{info.size}"
    assert storage.list(s3_bucket.url) == [info]
    with storage.open(url) as stream:
        assert stream.read(10) == data[:10]
        stream.seek(50_000)
        assert stream.read() == data[50_000:]
        assert stream.read(1) == b""


def test_an_empty_object(s3_bucket: Bucket, storage: Storage) -> None:
    storage.publish(f"{s3_bucket.url}/empty", b"")
    assert storage.read_bytes(f"{s3_bucket.url}/empty") == b""


def test_what_is_missing(s3_bucket: Bucket, storage: Storage) -> None:
    storage.publish(f"{s3_bucket.url}/raw/a.tar", b"x")
    for url in (f"{s3_bucket.url}/absent", f"{s3_bucket.url}/raw", s3_bucket.url, "s3://no-such-bucket-here/a"):
        assert not storage.exists(url)
        with pytest.raises(MissingFileError):
            storage.open(url)
    assert storage.list(f"{s3_bucket.url}/absent") == []
    assert storage.list(f"{s3_bucket.url}/raw/a.tar") == []
    assert storage.list("s3://no-such-bucket-here/a") == []
    assert storage.glob("s3://no-such-bucket-here/*.tar") == []
    storage.delete(f"{s3_bucket.url}/absent")


def test_list_and_glob(s3_bucket: Bucket, storage: Storage) -> None:
    for name in ("raw/b.tar", "raw/a.tar", "raw/a.json", "raw/sub/c.tar", "raw/.x.0.tmp", "raw-private/z.tar"):
        storage.publish(f"{s3_bucket.url}/{name}", b"x")
    s3_bucket.client().put_object(Bucket=s3_bucket.name, Key="raw/", Body=b"")  # what consoles make of a folder

    def names(files: list[object]) -> list[str]:
        return [str(getattr(file, "url", "")).removeprefix(s3_bucket.url + "/") for file in files]

    assert names([*storage.list(f"{s3_bucket.url}/raw", ".tar")]) == ["raw/a.tar", "raw/b.tar", "raw/sub/c.tar"]
    assert names([*storage.list(f"{s3_bucket.url}/raw/", recursive=False)]) == ["raw/a.json", "raw/a.tar", "raw/b.tar"]
    assert names([*storage.glob(f"{s3_bucket.url}/raw/*.tar")]) == ["raw/a.tar", "raw/b.tar"]
    assert names([*storage.glob(f"{s3_bucket.url}/raw*/[a-z].tar")]) == ["raw-private/z.tar", "raw/a.tar", "raw/b.tar"]
    assert names([*storage.glob(f"{s3_bucket.url}/**/c.tar")]) == ["raw/sub/c.tar"]


def test_listings_are_not_remembered(s3_bucket: Bucket, storage: Storage) -> None:
    storage.publish(f"{s3_bucket.url}/raw/a", b"x")
    assert len(storage.list(f"{s3_bucket.url}/raw", recursive=False)) == 1
    s3_bucket.client().put_object(Bucket=s3_bucket.name, Key="raw/b", Body=b"another machine")
    assert len(storage.list(f"{s3_bucket.url}/raw", recursive=False)) == 2
    s3_bucket.client().delete_object(Bucket=s3_bucket.name, Key="raw/a")
    assert not storage.exists(f"{s3_bucket.url}/raw/a")
    assert [file.size for file in storage.list(f"{s3_bucket.url}/raw")] == [15]


def test_a_range_costs_one_listing(s3_bucket: Bucket, storage: Storage, through: Storage, proxy: Proxy) -> None:
    for i in range(4):
        storage.publish(f"{s3_bucket.url}/raw/{i:03d}.tar", b"x")
    found = through.lookup([f"{s3_bucket.url}/raw/{i:03d}.tar" for i in range(200)])
    assert len(found) == 4
    assert len(proxy.seen) == 1


def test_the_environment_names_the_server(s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_bucket.options["endpoint_url"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    S3FileSystem.clear_instance_cache()
    try:
        Storage().publish(f"{s3_bucket.url}/a", b"x")
        assert Storage().read_bytes(f"{s3_bucket.url}/a") == b"x"
    finally:
        S3FileSystem.clear_instance_cache()


def test_the_allow_list_holds_for_keys(s3_bucket: Bucket) -> None:
    storage = Storage(s3_bucket.options, [f"{s3_bucket.url}/raw"])
    storage.publish(f"{s3_bucket.url}/raw/x/../a", b"x")
    assert [file.url for file in storage.list(f"{s3_bucket.url}/raw")] == [f"{s3_bucket.url}/raw/a"]
    for url in (f"{s3_bucket.url}/raw-private/a", f"{s3_bucket.url}/raw/../raw-private/a", s3_bucket.url):
        with pytest.raises(UsageError, match="allowed"):
            storage.publish(url, b"x")


# Publishing


def test_publishing_again(s3_bucket: Bucket, storage: Storage, tmp_path: Path) -> None:
    url = f"{s3_bucket.url}/out/a.bin"
    (tmp_path / "copy").write_bytes(b"same")
    first = storage.publish(url, b"same")
    changed = s3_bucket.client().head_object(Bucket=s3_bucket.name, Key="out/a.bin")["LastModified"]
    assert storage.publish(url, b"same") == first == storage.publish(url, tmp_path / "copy")
    assert s3_bucket.client().head_object(Bucket=s3_bucket.name, Key="out/a.bin")["LastModified"] == changed
    for other in (b"Same", b"", b"same and more"):
        with pytest.raises(ConflictError, match=r"a\.bin: exists already with other content"):
            storage.publish(url, other)
    assert storage.read_bytes(url) == b"same"
    storage.publish(url, b"view", replace=True)
    assert storage.read_bytes(url) == b"view"
    storage.delete(url)
    assert not storage.exists(url)


def test_a_tag_that_is_no_digest_is_not_trusted(s3_bucket: Bucket, storage: Storage) -> None:
    """An object that came in several parts (or encrypted) has another tag than one put of the same bytes."""
    client, data = s3_bucket.client(), os.urandom(5 * 2**20 + 10)
    upload = client.create_multipart_upload(Bucket=s3_bucket.name, Key="a")["UploadId"]
    parts = []
    for number, body in enumerate((data[: 5 * 2**20], data[5 * 2**20 :]), 1):
        place = {"Bucket": s3_bucket.name, "Key": "a", "UploadId": upload, "PartNumber": number}
        parts.append({"PartNumber": number, "ETag": client.upload_part(**place, Body=body)["ETag"]})
    client.complete_multipart_upload(Bucket=s3_bucket.name, Key="a", UploadId=upload, MultipartUpload={"Parts": parts})
    assert storage.info(f"{s3_bucket.url}/a").etag.endswith("-2")
    assert storage.publish(f"{s3_bucket.url}/a", data).sha256 == hashlib.sha256(data).hexdigest()
    with pytest.raises(ConflictError):
        storage.publish(f"{s3_bucket.url}/a", data[:-1] + bytes([data[-1] ^ 1]))


def test_a_bucket_that_does_not_exist(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    for data in (b"x", tmp_path / "a"):
        with pytest.raises(StorageError, match=r"s3://no-such-bucket-here/a: cannot write: the bucket.*--out"):
            storage.publish("s3://no-such-bucket-here/a", data)


def _race(storage: Storage, url: str, contents: list[bytes]) -> list[str]:
    barrier = threading.Barrier(len(contents))
    outcome = [""] * len(contents)

    def write(index: int) -> None:
        barrier.wait()
        try:
            storage.publish(url, contents[index])
            outcome[index] = "published"
        except ConflictError:
            outcome[index] = "conflict"

    threads = [threading.Thread(target=write, args=(i,)) for i in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


def test_writers_of_the_same_bytes_all_succeed(s3_bucket: Bucket, storage: Storage) -> None:
    for round in range(5):
        assert _race(storage, f"{s3_bucket.url}/{round}", [b"same" * 1000] * 4) == ["published"] * 4


@pytest.mark.parametrize("conditional", [True, False])
def test_no_writer_of_other_bytes_that_lost_is_told_it_won(
    s3_bucket: Bucket, through: Storage, proxy: Proxy, conditional: bool
) -> None:
    """What stays was published; without If-None-Match a writer may be overwritten after it looked, never before.

    That is as much as S3 without conditions permits: here each writer looks after all have written.
    """
    everybody = threading.Barrier(3)
    looks = iter(range(100))

    def rule(method: str, path: str) -> str | None:
        if method == "PUT":
            everybody.wait()  # all have seen that the name is free
            return None if conditional else "unconditional"
        if method == "HEAD" and proxy.count("PUT") == 3 and next(looks) < 3:
            everybody.wait()  # all have written
        return None

    proxy.rule = rule
    contents = [bytes([i]) * 1000 for i in range(3)]
    outcome = _race(through, f"{s3_bucket.url}/a", contents)
    assert sorted(outcome) == ["conflict", "conflict", "published"]
    proxy.rule = lambda method, path: None
    assert through.read_bytes(f"{s3_bucket.url}/a") == contents[outcome.index("published")]


# What goes wrong


@pytest.mark.usefixtures("rushing")
def test_the_answer_to_a_put_is_lost(s3_bucket: Bucket, through: Storage, proxy: Proxy) -> None:
    proxy.rule = lambda method, path: "lost" if method == "PUT" and proxy.count("PUT") == 1 else None
    through.publish(f"{s3_bucket.url}/a", b"arrived")
    assert proxy.count("PUT") == 2  # the second is refused because of the first, and that is no conflict
    proxy.rule = lambda method, path: "lost" if method == "PUT" else None
    through.publish(f"{s3_bucket.url}/b", b"arrived")
    through.publish(f"{s3_bucket.url}/b", b"another view", replace=True)
    assert through.read_bytes(f"{s3_bucket.url}/b") == b"another view"


def test_a_server_without_conditions(s3_bucket: Bucket, through: Storage, proxy: Proxy) -> None:
    proxy.rule = lambda method, path: 501 if method == "PUT" and proxy.count("PUT") == 1 else None
    through.publish(f"{s3_bucket.url}/a", b"x")
    assert through.read_bytes(f"{s3_bucket.url}/a") == b"x"


def test_a_refusal_is_not_absence(s3_bucket: Bucket, storage: Storage, through: Storage, proxy: Proxy) -> None:
    storage.publish(f"{s3_bucket.url}/raw/a", b"x")
    proxy.rule = lambda method, path: 403
    url = f"{s3_bucket.url}/raw/a"
    calls: tuple[Callable[[str], object], ...] = (
        through.exists,
        through.info,
        through.open,
        through.read_bytes,
        through.fingerprint,
    )
    for call in calls:
        proxy.seen.clear()
        with pytest.raises(StorageError, match="access denied") as caught:
            call(url)
        assert not isinstance(caught.value, MissingFileError)
        assert len(proxy.seen) == 1
    for look in (through.list, through.glob):
        with pytest.raises(StorageError, match="access denied"):
            look(f"{s3_bucket.url}/raw/*")
    for put in (lambda: through.publish(url, b"x"), lambda: through.publish(url, b"x", replace=True)):
        with pytest.raises(StorageError, match="cannot write: access denied"):
            put()


@pytest.mark.usefixtures("rushing")
@pytest.mark.parametrize("status", [500, 503])
def test_one_layer_of_retries(s3_bucket: Bucket, storage: Storage, through: Storage, proxy: Proxy, status: int) -> None:
    storage.publish(f"{s3_bucket.url}/a", b"x" * 1000)
    proxy.rule = lambda method, path: status
    with pytest.raises(StorageError, match="cannot read"):
        through.info(f"{s3_bucket.url}/a")
    assert 5 < len(proxy.seen) < 100
    proxy.rule = lambda method, path: status if method == "GET" else None
    proxy.seen.clear()
    with pytest.raises(StorageError, match="cannot read"):
        through.read_bytes(f"{s3_bucket.url}/a")
    assert 5 < proxy.count("GET") < 100
    proxy.seen.clear()
    proxy.rule = lambda method, path: status if len(proxy.seen) % 3 else None
    assert through.read_bytes(f"{s3_bucket.url}/a") == b"x" * 1000
    through.publish(f"{s3_bucket.url}/b", b"y")
    assert len(through.list(s3_bucket.url)) == 2


@pytest.mark.usefixtures("rushing")
def test_a_cut_body_is_asked_for_again(s3_bucket: Bucket, storage: Storage, through: Storage, proxy: Proxy) -> None:
    data = os.urandom(100_000)
    storage.publish(f"{s3_bucket.url}/a", data)
    proxy.rule = lambda method, path: "cut" if method == "GET" and proxy.count("GET") < 3 else None
    assert through.read_bytes(f"{s3_bucket.url}/a") == data
    proxy.rule = lambda method, path: "cut" if method == "GET" else None
    assert through.read_bytes(f"{s3_bucket.url}/a") == data  # as long as something arrives


@pytest.mark.usefixtures("rushing")
def test_a_body_that_is_short_in_good_order(
    s3_bucket: Bucket, storage: Storage, through: Storage, proxy: Proxy
) -> None:
    storage.publish(f"{s3_bucket.url}/a", os.urandom(70_000))
    proxy.rule = lambda method, path: "stale"
    with pytest.raises(StorageError, match=f"ended after {CUT} of 70000 bytes; the file was cut"):
        through.open(f"{s3_bucket.url}/a")
    assert proxy.count("GET") > 5


def test_a_wrong_option_is_said(s3_bucket: Bucket) -> None:
    with pytest.raises((StorageError, UsageError), match="endpoint"):
        Storage({"endpoint": "http://127.0.0.1:1"}).read_bytes(f"{s3_bucket.url}/a")


def test_when_an_object_was_written(s3_bucket: Bucket, storage: Storage) -> None:
    url = f"{s3_bucket.url}/a.bin"
    storage.publish(url, b"x")
    assert abs(datetime.now(UTC) - storage.modified(url)) < timedelta(hours=1)
    with pytest.raises(MissingFileError):
        storage.modified(f"{s3_bucket.url}/b.bin")
