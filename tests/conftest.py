"""Fixtures that several rooms use: an S3 server of its own, and small tars."""

from __future__ import annotations

import functools
import io
import json
import tarfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import botocore.session
import fsspec
import pytest
from hypothesis import settings
from moto.server import ThreadedMotoServer

# Examples may take long on a busy machine; that is no property of what is tested.
settings.register_profile("ecif", deadline=None)
settings.load_profile("ecif")

MakeTar = Callable[..., bytes]


@dataclass(frozen=True, slots=True)
class Bucket:
    """A fresh bucket: its URL, and the storage options that reach it."""

    url: str
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return self.url.removeprefix("s3://")

    def client(self) -> Any:
        """A plain S3 client, for what `Storage` does not do."""
        return _client(self.options["endpoint_url"], self.options["key"], self.options["secret"])


@functools.cache  # making one takes longer than most tests
def _client(endpoint: str, key: str, secret: str) -> Any:
    return botocore.session.get_session().create_client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
    )


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of a moto server on a free loopback port. It accepts any key and refuses nobody."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def s3_bucket(s3_endpoint: str) -> Bucket:
    """A new, empty bucket."""
    options = {"endpoint_url": s3_endpoint, "key": "testing", "secret": "testing"}
    bucket = Bucket(f"s3://test-{uuid.uuid4().hex[:12]}", options)
    bucket.client().create_bucket(Bucket=bucket.name)
    return bucket


@pytest.fixture
def memory_root() -> Iterator[str]:
    """A URL in fsspec's memory, which all tests of a process share, emptied afterwards."""
    root = f"memory://{uuid.uuid4().hex[:12]}"
    yield root
    fs = fsspec.filesystem("memory")
    for name in fs.find(root):
        fs.rm_file(name)


@pytest.fixture(scope="session")
def make_tar() -> MakeTar:
    """`make_tar(members)` or `make_tar(count)`: a WebDataset tar as bytes.

    Args of the function:
        members: (name, data) pairs in order; or a number of samples `000000000`, ... with .jpg, .txt and .json.
        seed: varies the bytes of counted samples.
    """
    return _make_tar


def _make_tar(members: Sequence[tuple[str, bytes]] | int, seed: int = 0) -> bytes:
    if isinstance(members, int):
        members = [member for index in range(members) for member in _sample(index, seed)]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def _sample(index: int, seed: int) -> list[tuple[str, bytes]]:
    key = f"{index:09d}"
    image = b"\xff\xd8" + f"not really a picture, {seed}.{index}".encode()
    record = json.dumps({"key": key, "uid": f"{seed:016x}{index:016x}"}).encode()
    return [(f"{key}.jpg", image), (f"{key}.txt", f"caption {index}".encode()), (f"{key}.json", record)]
