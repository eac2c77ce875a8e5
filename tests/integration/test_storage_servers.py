"""`Storage` against real servers: what is visible is whole, what fails says why, and nothing stays pending."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import numpy as np
import pytest

from bench.places import Server
from bench.trial import Nursery
from ecif.errors import ConflictError, InputError, MissingFileError, StorageError
from ecif.storage import Storage
from tests.integration.conftest import Store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

NewBucket = Callable[[Server], str]
BIG = np.random.default_rng(0).bytes(40 * 2**20 + 12_345)  # three parts


@pytest.fixture
def root(store: Store, new_bucket: NewBucket) -> str:
    return f"s3://{new_bucket(store.server)}"


@pytest.fixture
def storage(store: Store) -> Storage:
    return Storage(store.server.options())


def create(storage: Storage, url: str, data: bytes) -> None:
    with storage.create(url) as writer:
        writer.write(data)
        writer.finish()


def test_small_objects(storage: Storage, root: str) -> None:
    published = storage.publish(f"{root}/a/b.json", b"{}")
    assert (published.size, published.sha256) == (2, hashlib.sha256(b"{}").hexdigest())
    assert storage.publish(f"{root}/a/b.json", b"{}") == published
    assert storage.read_bytes(f"{root}/a/b.json") == b"{}"
    assert storage.read_marked(f"{root}/a/b.json", published.size, published.sha256) == b"{}"
    with pytest.raises(InputError):
        storage.read_marked(f"{root}/a/b.json", published.size, "0" * 64)
    with pytest.raises(MissingFileError):
        storage.read_bytes(f"{root}/a/c.json")
    storage.publish(f"{root}/empty", b"")
    assert storage.read_bytes(f"{root}/empty") == b""


def test_other_bytes_under_a_taken_name_are_refused(storage: Storage, root: str) -> None:
    storage.publish(f"{root}/a", b"one")
    with pytest.raises(ConflictError):
        storage.publish(f"{root}/a", b"two")
    with pytest.raises(ConflictError):
        create(storage, f"{root}/a", b"three")
    assert storage.publish_first(f"{root}/a", b"four").sha256 == hashlib.sha256(b"one").hexdigest()
    assert storage.read_bytes(f"{root}/a") == b"one"
    storage.publish(f"{root}/a", b"five", replace=True)
    assert storage.read_bytes(f"{root}/a") == b"five"
    assert storage.uploads(root) == []


def test_a_large_object_in_parts(storage: Storage, root: str) -> None:
    for name in ("streamed", "whole"):
        if name == "streamed":
            with storage.create(f"{root}/{name}", at_most=len(BIG)) as writer:
                for start in range(0, len(BIG), 3_000_000):
                    writer.write(BIG[start : start + 3_000_000])
                assert not storage.exists(f"{root}/{name}")
                published = writer.finish()
        else:
            published = storage.publish(f"{root}/{name}", BIG)
        assert (published.size, published.sha256) == (len(BIG), hashlib.sha256(BIG).hexdigest())
        with storage.open(f"{root}/{name}", expect=storage.info(f"{root}/{name}")) as stream:
            assert stream.read(10) == BIG[:10]
            stream.seek(30 * 2**20)
            assert stream.read(100) == BIG[30 * 2**20 : 30 * 2**20 + 100]
            stream.seek(0)
            assert hashlib.sha256(stream.read()).hexdigest() == published.sha256
    # The same bytes again: fine. Others: not, and the object is as it was.
    create(storage, f"{root}/streamed", BIG)
    with pytest.raises(ConflictError):
        create(storage, f"{root}/streamed", BIG[::-1])
    assert storage.info(f"{root}/streamed").size == len(BIG)
    assert storage.read_bytes(f"{root}/streamed") == BIG
    assert storage.uploads(root) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_writer_that_is_left_leaves_nothing(storage: Storage, root: str, error: type[BaseException]) -> None:
    def leave() -> None:
        with storage.create(f"{root}/left") as writer:
            writer.write(BIG)
            raise error

    with pytest.raises(error):
        leave()
    with storage.create(f"{root}/not finished") as writer:
        writer.write(BIG)
    assert list(storage.scan(root)) == []
    assert storage.uploads(root) == []


def test_pending_uploads_are_found_and_aborted(storage: Storage, root: str, store: Store) -> None:
    client, bucket = store.server.client(), root.removeprefix("s3://")
    for key in ("out/a.tar", "out/b.tar", "elsewhere/c.tar"):
        client.create_multipart_upload(Bucket=bucket, Key=key)
    pending = storage.uploads(f"{root}/out")
    assert [upload.url for upload in pending] == [f"{root}/out/a.tar", f"{root}/out/b.tar"]
    assert all(upload.started.tzinfo is not None for upload in pending)
    storage.abort_upload(pending[0])
    assert [upload.url for upload in storage.uploads(f"{root}/out")] == [f"{root}/out/b.tar"]
    assert len(storage.uploads(root)) == 2


def test_listing(storage: Storage, root: str) -> None:
    names = sorted([f"{n:04d}.tar" for n in range(30)] + ["a/b/0.tar", "a/c.json", "a b/ü+%.tar", "a.tar"])
    for name in names:
        storage.publish(f"{root}/in/{name}", name.encode())
    storage.publish(f"{root}/inside.tar", b"not below in/")
    found = list(storage.scan(f"{root}/in"))
    assert [file.url for file in found] == sorted(f"{root}/in/{name}" for name in names)
    assert [file.size for file in found] == [len(file.url.removeprefix(f"{root}/in/").encode()) for file in found]
    assert found == storage.list(f"{root}/in")
    assert found[0] == storage.info(found[0].url)
    tars = list(storage.scan(f"{root}/in", ".tar", recursive=False))
    assert [file.url for file in tars] == sorted(f"{root}/in/{n}" for n in names if n.endswith(".tar") and "/" not in n)
    assert list(storage.scan(f"{root}/nothing")) == []
    assert [file.url for file in storage.glob(f"{root}/in/000?.tar")] == [f"{root}/in/000{n}.tar" for n in range(10)]


def test_a_replaced_object_is_noticed(storage: Storage, root: str) -> None:
    storage.publish(f"{root}/a", b"x" * 100)
    then = storage.info(f"{root}/a")
    storage.publish(f"{root}/a", b"y" * 100, replace=True)
    with pytest.raises(InputError, match="changed"), storage.open(f"{root}/a", expect=then) as stream:
        stream.read()


def test_an_object_that_is_replaced_while_it_is_read(storage: Storage, root: str) -> None:
    storage.publish(f"{root}/a", BIG)
    got = bytearray()

    def read() -> None:
        with storage.open(f"{root}/a") as stream:
            got.extend(stream.read(1000))
            storage.publish(f"{root}/a", BIG[::-1], replace=True)
            while piece := stream.read(2**20):
                got.extend(piece)

    with pytest.raises(InputError):
        read()
    assert bytes(got) == BIG[: len(got)]


def test_a_stranger_is_refused_and_told_so(store: Store, storage: Storage, root: str) -> None:
    storage.publish(f"{root}/a.tar", b"mine")
    stranger = Storage(store.other.options(), patience=5)
    for attempt in (
        lambda: stranger.read_bytes(f"{root}/a.tar"),
        lambda: stranger.list(root),
        lambda: stranger.publish(f"{root}/b.tar", b"yours"),
        lambda: stranger.publish(f"{root}/c.tar", BIG),
    ):
        with pytest.raises(StorageError, match="access denied") as caught:
            attempt()
        assert "check the credentials" in str(caught.value)
        assert store.other.secret not in str(caught.value)
    wrong = Storage(store.server.options() | {"secret": "not-the-secret"}, patience=5)
    with pytest.raises(StorageError, match="access denied"):
        wrong.read_bytes(f"{root}/a.tar")
    assert [file.url for file in storage.scan(root)] == [f"{root}/a.tar"]
    assert storage.uploads(root) == []


def test_doctor(store: Store, root: str, nursery: Nursery) -> None:
    environment = {"ECIF_STORAGE_OPTIONS": json.dumps(store.server.options())}
    ended = nursery.run(("doctor", root, "--json"), environment)
    assert ended.code == 0, ended.err + ended.out
    print(ended.out)
    found = json.loads(ended.out)
    assert found["ok"]
    assert Storage(store.server.options()).list(root) == []
    assert Storage(store.server.options()).uploads(root) == []
    (create,) = (line for line in found["lines"] if line["check"] == "conditional create")
    if store.name == "swift":  # several of those that began together win
        assert create["level"] == "warning"
        assert "does not rely on it" in create["advice"]
    else:
        assert create["level"] == "ok"
    refused = nursery.run(("doctor", root, "--json"), {"ECIF_STORAGE_OPTIONS": json.dumps(store.other.options())})
    assert refused.code == 4, refused.err + refused.out
    assert "AccessDenied" in refused.out or "denied" in refused.out
