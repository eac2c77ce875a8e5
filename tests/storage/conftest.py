"""Places to store in: a directory, fsspec's memory, S3 and a proxy before it; and time that does not really pass."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import moto.s3.models
import pytest

from ecif.storage import Storage, faults, upload

from .proxy import Proxy, proxied

if TYPE_CHECKING:
    from ..conftest import Bucket


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else str(request.getfixturevalue("memory_root"))


class Rushing(faults.Clock):
    """Waits take no time, but count as if they did."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def now(self) -> float:
        return time.monotonic() + sum(self.waits)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def asleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.fixture
def rushing(monkeypatch: pytest.MonkeyPatch) -> Rushing:
    clock = Rushing()
    monkeypatch.setattr(faults, "clock", clock)
    return clock


@pytest.fixture
def storage(s3_bucket: Bucket) -> Storage:
    return Storage(s3_bucket.options)


@pytest.fixture(scope="session")
def _proxied(s3_endpoint: str) -> Iterator[Proxy]:
    with proxied(s3_endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy(_proxied: Proxy) -> Iterator[Proxy]:
    """A proxy that has seen nothing yet and lets everything pass."""
    _proxied.reset()
    yield _proxied
    _proxied.reset()


@pytest.fixture
def through(s3_bucket: Bucket, proxy: Proxy) -> Storage:
    """Storage by way of the proxy."""
    return Storage(s3_bucket.options | {"endpoint_url": proxy.url})


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> int:
    """Uploads of two of these bytes and more have parts."""
    monkeypatch.setattr(moto.s3.models, "S3_UPLOAD_PART_MIN_SIZE", 1)
    monkeypatch.setattr(upload, "PART_BYTES", 50_000)
    return 50_000
