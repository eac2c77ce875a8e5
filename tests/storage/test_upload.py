"""Writing S3 objects in parts: whatever goes wrong, the object is there whole or not at all, and nothing is left."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecif.errors import ConflictError, StorageError
from ecif.storage import Published, Storage, upload

from .proxy import Fault, Proxy

if TYPE_CHECKING:
    from ..conftest import Bucket

DATA = os.urandom(330_000)
DIGEST = Published(len(DATA), hashlib.sha256(DATA).hexdigest())


def _write(storage: Storage, url: str, data: bytes = DATA, step: int = 30_000) -> Published:
    with storage.create(url) as writer:
        for start in range(0, len(data), step):
            writer.write(memoryview(data)[start : start + step])
        return writer.finish()


def _break_off(storage: Storage, url: str) -> None:
    with storage.create(url) as writer:
        writer.write(DATA)
        raise KeyError("the caller's")


def _pending(bucket: Bucket) -> int:
    return len(bucket.client().list_multipart_uploads(Bucket=bucket.name).get("Uploads", ()))


def _once(name: str, fault: Fault) -> Callable[[str], Fault]:
    left = [fault]
    return lambda operation: left.pop() if operation == name and left else None


def test_parts(s3_bucket: Bucket, storage: Storage, through: Storage, proxy: Proxy, part: int) -> None:
    url = f"{s3_bucket.url}/a"
    assert _write(through, url) == DIGEST
    assert storage.info(url).etag.endswith("-7")
    assert proxy.done.count("UploadPart") == 7
    assert "GetObject" not in proxy.done  # the tag told that everything arrived
    assert storage.read_bytes(url) == DATA
    proxy.done.clear()
    assert _write(through, url) == DIGEST == through.publish(url, DATA)
    assert set(proxy.done) == {"HeadObject"}  # nothing is sent again
    with pytest.raises(ConflictError):
        _write(through, url, DATA[:-1])
    with pytest.raises(ConflictError):
        _write(through, url, DATA[:-1] + bytes([DATA[-1] ^ 1]))
    assert _pending(s3_bucket) == 0


def test_less_than_two_parts_are_one_request(
    s3_bucket: Bucket, storage: Storage, through: Storage, proxy: Proxy, part: int
) -> None:
    for size in (0, 1, part - 1, part, part + 1, 2 * part):
        proxy.done.clear()
        published = _write(through, f"{s3_bucket.url}/{size}", DATA[:size])
        assert published == Published(size, hashlib.sha256(DATA[:size]).hexdigest())
        assert proxy.done == ["HeadObject", "PutObject", "HeadObject"]
        assert storage.info(f"{s3_bucket.url}/{size}").etag == hashlib.md5(DATA[:size]).hexdigest()
        assert storage.read_bytes(f"{s3_bucket.url}/{size}") == DATA[:size]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.integers(0, 120_000), max_size=8), bound=st.none() | st.integers(0, 500_000))
def test_however_it_is_cut_into_writes(
    s3_bucket: Bucket, storage: Storage, part: int, steps: list[int], bound: int | None
) -> None:
    data = (DATA * 3)[: sum(steps)]
    url, done = f"{s3_bucket.url}/{os.urandom(8).hex()}", 0
    with storage.create(url, at_most=bound) as writer:
        for step in steps:
            piece = bytearray(data[done : done + step])
            writer.write(piece)
            piece[:] = bytes(len(piece))  # the caller's again
            done += step
        assert writer.finish().sha256 == hashlib.sha256(data).hexdigest()
    assert storage.read_bytes(url) == data


@pytest.mark.parametrize("written", [0, 10_000, 120_000, 330_000])
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_leaving_without_finish(
    s3_bucket: Bucket, storage: Storage, part: int, written: int, error: type[BaseException] | None
) -> None:
    try:
        with storage.create(f"{s3_bucket.url}/a") as writer:
            writer.write(DATA[:written])
            if error is not None:
                raise error
    except BaseException as raised:
        assert type(raised) is error
    with pytest.raises(ValueError, match="finished"):
        writer.write(b"x")
    with pytest.raises(ValueError, match="finished"):
        writer.finish()
    assert storage.list(s3_bucket.url) == []
    assert _pending(s3_bucket) == 0


OPERATIONS = ("HeadObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")
PASSING: tuple[Fault, ...] = (500, 503, 429, "lost", "dropped")
# Told by a code in the body, which the answer to HEAD does not have.
CODES: tuple[Fault, ...] = ((400, "RequestTimeout"), (400, "BadDigest"), (409, "OperationAborted"))


@pytest.mark.usefixtures("rushing")
@pytest.mark.parametrize(
    ("operation", "fault"),
    [*itertools.product(OPERATIONS, PASSING), *itertools.product(OPERATIONS[1:], CODES)],
    ids=str,
)
def test_one_failure_is_bridged(
    s3_bucket: Bucket, storage: Storage, through: Storage, proxy: Proxy, part: int, operation: str, fault: Fault
) -> None:
    proxy.on = _once(operation, fault)
    assert _write(through, f"{s3_bucket.url}/a") == DIGEST
    assert proxy.done.count(operation) > (6 if operation == "UploadPart" else 1)
    assert storage.read_bytes(f"{s3_bucket.url}/a") == DATA
    assert _pending(s3_bucket) == 0


@pytest.mark.usefixtures("rushing")
@pytest.mark.parametrize("fault", [500, "dropped", 403, (400, "ExpiredToken"), (403, "RequestTimeTooSkewed")], ids=str)
@pytest.mark.parametrize("operation", OPERATIONS[1:])
def test_a_lasting_failure_leaves_nothing(
    s3_bucket: Bucket, storage: Storage, through: Storage, proxy: Proxy, part: int, operation: str, fault: Fault
) -> None:
    proxy.on = lambda name: fault if name == operation else None
    with pytest.raises(StorageError, match=r"/a: cannot write") as caught:
        _write(through, f"{s3_bucket.url}/a")
    assert not isinstance(caught.value, ConflictError)
    assert storage.list(s3_bucket.url) == []
    assert _pending(s3_bucket) == 0
    if isinstance(fault, tuple) or fault == 403:
        assert proxy.done.count(operation) <= 4  # each part once at most: final failures are not tried again


@pytest.mark.usefixtures("rushing")
def test_uploads_of_which_nobody_was_told(s3_bucket: Bucket, through: Storage, proxy: Proxy, part: int) -> None:
    """Each attempt to begin one works, and each answer is lost; those of others stay."""
    client = s3_bucket.client()
    other = client.create_multipart_upload(Bucket=s3_bucket.name, Key="a")["UploadId"]
    client.upload_part(Bucket=s3_bucket.name, Key="a", UploadId=other, PartNumber=1, Body=b"x")
    proxy.on = lambda name: "lost" if name == "CreateMultipartUpload" else None
    with pytest.raises(StorageError, match="cannot write"):
        _write(through, f"{s3_bucket.url}/a")
    assert proxy.done.count("CreateMultipartUpload") > 5
    assert [upload["UploadId"] for upload in client.list_multipart_uploads(Bucket=s3_bucket.name)["Uploads"]] == [other]


@pytest.mark.usefixtures("rushing")
@pytest.mark.parametrize("size", [20_000, 330_000])
def test_all_answers_to_the_last_request_are_lost(
    s3_bucket: Bucket, storage: Storage, through: Storage, proxy: Proxy, part: int, size: int
) -> None:
    proxy.on = lambda name: "lost" if name in ("PutObject", "CompleteMultipartUpload") else None
    assert _write(through, f"{s3_bucket.url}/a", DATA[:size]).size == size
    assert storage.read_bytes(f"{s3_bucket.url}/a") == DATA[:size]
    assert _pending(s3_bucket) == 0
    with pytest.raises(ConflictError):
        _write(through, f"{s3_bucket.url}/a", b"x" * size)


@pytest.mark.usefixtures("rushing")
@pytest.mark.parametrize("fault", ["lost", "dropped", 500], ids=str)
def test_an_abort_that_fails_once(s3_bucket: Bucket, through: Storage, proxy: Proxy, part: int, fault: Fault) -> None:
    proxy.on = _once("AbortMultipartUpload", fault)
    with pytest.raises(KeyError):
        _break_off(through, f"{s3_bucket.url}/a")
    assert _pending(s3_bucket) == 0


def test_an_abort_that_is_refused_is_said_beside_the_error(
    s3_bucket: Bucket, storage: Storage, through: Storage, proxy: Proxy, part: int
) -> None:
    proxy.on = lambda name: 403 if name == "AbortMultipartUpload" else None
    with pytest.raises(KeyError) as caught:
        _break_off(through, f"{s3_bucket.url}/a")
    assert "could not be removed" in caught.value.__notes__[0]
    (pending,) = storage.uploads(s3_bucket.url)
    assert pending.url == f"{s3_bucket.url}/a"
    storage.abort_upload(pending)
    storage.abort_upload(pending)
    assert storage.uploads(s3_bucket.url) == []


def test_pending_uploads_are_listed_by_directory(s3_bucket: Bucket, storage: Storage) -> None:
    client = s3_bucket.client()
    for key in ("a/1", "a/2", "a/2", "b/1", "ab"):
        client.create_multipart_upload(Bucket=s3_bucket.name, Key=key)
    found = storage.uploads(f"{s3_bucket.url}/a")
    assert [upload.url for upload in found] == [f"{s3_bucket.url}/a/{n}" for n in (1, 2, 2)]
    assert len({upload.upload_id for upload in found}) == 3
    assert all(upload.started.tzinfo is not None for upload in found)
    assert len(storage.uploads(s3_bucket.url)) == 5
    assert storage.uploads("/tmp") == []


@pytest.mark.parametrize("conditions", ["honoured", "ignored", "refused"])
@pytest.mark.parametrize("size", [20_000, 330_000])
@pytest.mark.parametrize("same", [True, False])
def test_two_writers_at_once(
    s3_bucket: Bucket,
    storage: Storage,
    through: Storage,
    proxy: Proxy,
    part: int,
    conditions: str,
    size: int,
    same: bool,
) -> None:
    """Both have seen that the name is free before either takes it."""
    url = f"{s3_bucket.url}/a"
    both, arrivals = threading.Barrier(2, timeout=20), iter(range(100))

    def on(operation: str) -> Fault:
        if operation not in ("PutObject", "CompleteMultipartUpload"):
            return None
        if first := next(arrivals) < 2:
            both.wait()
        return 501 if conditions == "refused" and first else None if conditions == "honoured" else "unconditional"

    proxy.on = on
    contents = [DATA[:size], DATA[:size] if same else DATA[:size][::-1]]
    outcome = ["", ""]

    def work(index: int) -> None:
        try:
            _write(through, url, contents[index])
            outcome[index] = "published"
        except ConflictError:
            outcome[index] = "conflict"

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    proxy.on = lambda operation: None
    assert _pending(s3_bucket) == 0
    # Without conditions, whoever is overwritten may have looked before that; but what stays was published.
    assert outcome[contents.index(storage.read_bytes(url))] == "published"
    if same:
        assert outcome == ["published"] * 2
    elif conditions == "honoured" and size < part:  # on completion of an upload, moto's are not atomic
        assert sorted(outcome) == ["conflict", "published"]


@pytest.mark.parametrize("size", [20_000, 330_000])
def test_an_object_of_which_the_tag_is_no_digest(
    s3_bucket: Bucket, storage: Storage, through: Storage, proxy: Proxy, part: int, size: int
) -> None:
    """Parts of another size stand for encryption with keys of one's own: only reading back tells."""
    client, url = s3_bucket.client(), f"{s3_bucket.url}/a"
    upload_id = client.create_multipart_upload(Bucket=s3_bucket.name, Key="a")["UploadId"]
    parts = []
    for number, start in enumerate(range(0, size, 7_000), 1):
        place = {"Bucket": s3_bucket.name, "Key": "a", "UploadId": upload_id, "PartNumber": number}
        body = DATA[:size][start : start + 7_000]
        parts.append({"PartNumber": number, "ETag": client.upload_part(**place, Body=body)["ETag"]})
    client.complete_multipart_upload(
        Bucket=s3_bucket.name, Key="a", UploadId=upload_id, MultipartUpload={"Parts": parts}
    )
    assert _write(through, url, DATA[:size]).size == size
    assert "GetObject" in proxy.done
    with pytest.raises(ConflictError):
        _write(through, url, DATA[: size - 1] + bytes([DATA[size - 1] ^ 1]))


def test_more_parts_than_s3_takes(
    s3_bucket: Bucket, storage: Storage, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "MOST_PARTS", 3)
    with pytest.raises(StorageError, match="larger than 3 parts of 50000 bytes; say how large it may become"):
        _write(storage, f"{s3_bucket.url}/a")
    assert _pending(s3_bucket) == 0
    with storage.create(f"{s3_bucket.url}/a", at_most=len(DATA)) as writer:
        writer.write(DATA)
        assert writer.finish() == DIGEST
    assert storage.info(f"{s3_bucket.url}/a").etag.endswith("-3")


def test_publish_first(s3_bucket: Bucket, storage: Storage, part: int) -> None:
    url = f"{s3_bucket.url}/a"
    assert storage.publish_first(url, DATA) == DIGEST
    assert storage.publish_first(url, b"another") == DIGEST
    assert storage.read_bytes(url) == DATA
