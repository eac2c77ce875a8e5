"""Options of remote file systems, and the parts of uploads."""

from __future__ import annotations

import sys

import pytest

from ecif.errors import UsageError
from ecif.storage import Storage, remote, upload


def test_options_are_chosen_per_scheme() -> None:
    flat = {"endpoint_url": "http://127.0.0.1:1", "key": "k", "secret": "s"}
    assert remote.filesystem("s3://b", flat).key == "k"
    assert "key" not in remote.filesystem("http://h/x", flat).kwargs
    assert remote.filesystem("s3://b", {"s3": flat, "https": {}}).endpoint_url == "http://127.0.0.1:1"
    assert remote.filesystem("s3://b", {"https": {}}).endpoint_url is None


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UsageError, match="gcsfs"):
        Storage().info("gs://b/k")


def test_parts_are_never_more_than_s3_takes() -> None:
    for size in (0, 1, 2**30, 312 * 2**30, 313 * 2**30, 5 * 2**40):
        assert -(-size // upload.part_bytes(size)) <= 10_000
