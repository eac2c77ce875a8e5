"""Options of remote file systems, and the tag an upload will get."""

from __future__ import annotations

import hashlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif.errors import UsageError
from ecif.storage import Storage, remote


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


@given(st.binary(max_size=200), st.integers(1, 40))
def test_the_expected_tag_is_that_of_s3(data: bytes, part: int) -> None:
    parts = [hashlib.md5(data[i : i + part]).digest() for i in range(0, len(data), part)]
    several = f"{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}"
    expected = several if len(data) >= 2 * part else hashlib.md5(data).hexdigest()
    assert remote._measure(data, part).etag == expected


def test_parts_are_never_more_than_s3_takes() -> None:
    for size in (0, 1, 2**30, 312 * 2**30, 313 * 2**30, 5 * 2**40):
        assert -(-size // remote.part_bytes(size)) <= 10_000
