"""What libraries raise becomes an error that names the file and the way out."""

from __future__ import annotations

import errno
import time

import aiohttp
import botocore.exceptions
import pytest

from ecif.errors import ConflictError, MissingFileError, StorageError
from ecif.storage import faults


class _OddError(Exception):
    pass


def test_a_full_disk_is_said() -> None:
    # /dev/full is a device that has no room.
    with (
        pytest.raises(StorageError, match=r"^/out/a: cannot write: No space left on device; make room"),
        faults.translated("/out/a", "write"),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"x")


def test_access_denied_is_said_and_is_not_absence() -> None:
    with pytest.raises(StorageError, match="s3://b/k: cannot read: access denied") as caught:  # noqa: SIM117
        with faults.translated("s3://b/k", "read"):
            raise PermissionError("Forbidden")
    assert not isinstance(caught.value, MissingFileError)


def test_absence_is_one_when_reading_and_a_refusal_when_writing() -> None:
    with pytest.raises(MissingFileError, match="a: does not exist"), faults.translated("a", "read"):
        raise FileNotFoundError
    with pytest.raises(StorageError, match="bucket or directory"), faults.translated("a", "write"):
        raise FileNotFoundError


def test_ours_pass_through_and_others_are_wrapped() -> None:
    with pytest.raises(ConflictError), faults.translated("x", "write"):
        raise ConflictError("taken", url="x")
    with pytest.raises(StorageError, match="_OddError: no details"), faults.translated("x", "read"):
        raise _OddError
    with pytest.raises(KeyboardInterrupt), faults.translated("x", "read"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (aiohttp.ClientPayloadError(), True),
        (aiohttp.ServerDisconnectedError(), True),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="x"), True),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="x"), True),
        (botocore.exceptions.NoCredentialsError(), False),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError(errno.EBUSY, "Slow down"), True),
        (OSError(errno.EINVAL, "Bad request"), False),
        (OSError(errno.ENOSPC, "No space"), False),
        (PermissionError(errno.EACCES, "no"), False),
        (FileNotFoundError(), False),
        (FileExistsError(), False),
        (ValueError(), False),
        (_OddError(), False),
    ],
)
def test_what_is_tried_again(monkeypatch: pytest.MonkeyPatch, error: Exception, passing: bool) -> None:
    monkeypatch.setattr(faults, "WAITS", (0.0, 0.0))
    calls = []

    def act() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise error
        return "done"

    if passing:
        assert faults.retrying(act) == "done"
    else:
        with pytest.raises(type(error)):
            faults.retrying(act)
    assert len(calls) == (3 if passing else 1)


def test_attempts_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with pytest.raises(TimeoutError):
        faults.retrying(lambda: (_ for _ in ()).throw(TimeoutError()))
    assert tuple(waited) == faults.WAITS
