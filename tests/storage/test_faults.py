"""What libraries raise becomes an error that names the file and the way out."""

from __future__ import annotations

import errno
import re
import time
from email.utils import formatdate
from typing import TYPE_CHECKING

import aiohttp
import botocore.exceptions
import pytest
from s3fs.errors import translate_boto_error

from ecif.errors import ConflictError, MissingFileError, StorageError
from ecif.storage import faults

if TYPE_CHECKING:
    from .conftest import Rushing


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
@pytest.mark.usefixtures("rushing")
def test_what_is_tried_again(error: Exception, passing: bool) -> None:
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


def test_attempts_are_limited_by_time(rushing: Rushing) -> None:
    with pytest.raises(TimeoutError) as caught:
        faults.retrying(lambda: (_ for _ in ()).throw(TimeoutError()), patience=30)
    assert 30 - faults.LONGEST_WAIT <= sum(rushing.waits) <= 30
    assert all(wait <= min(faults.LONGEST_WAIT, faults.FIRST_WAIT * 2**n) for n, wait in enumerate(rushing.waits))
    assert re.fullmatch(rf"given up after {len(rushing.waits) + 1} attempts in \d+ s", caught.value.__notes__[0])


def test_waits_differ_between_workers(rushing: Rushing) -> None:
    for _ in range(5):
        with pytest.raises(TimeoutError):
            faults.retrying(lambda: (_ for _ in ()).throw(TimeoutError()), patience=5)
    assert len(set(rushing.waits)) == len(rushing.waits)


def _answer(status: int, code: str, headers: dict[str, str] | None = None) -> Exception:
    """What s3fs makes of an answer."""
    answer = {
        "Error": {"Code": code, "Message": f"{code} was said"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
    }
    error: Exception = translate_boto_error(botocore.exceptions.ClientError(answer, "PutObject"))
    return error


@pytest.mark.parametrize(
    ("status", "code", "passing"),
    [
        (500, "InternalError", True),
        (502, "Bad Gateway", True),
        (503, "SlowDown", True),
        (503, "ServiceUnavailable", True),
        (504, "504", True),
        (429, "TooManyRequests", True),
        (408, "RequestTimeout", True),
        (400, "RequestTimeout", True),
        (400, "XAmzContentSHA256Mismatch", True),
        (400, "BadDigest", True),
        (400, "IncompleteBody", True),
        (409, "OperationAborted", True),
        (409, "ConditionalRequestConflict", True),
        (400, "ExpiredToken", False),
        (400, "InvalidArgument", False),
        (400, "EntityTooLarge", False),
        (401, "Unauthorized", False),
        (403, "AccessDenied", False),
        (403, "InvalidAccessKeyId", False),
        (403, "RequestTimeTooSkewed", False),
        (403, "SignatureDoesNotMatch", False),
        (404, "NoSuchKey", False),
        (404, "NoSuchUpload", False),
        (412, "PreconditionFailed", False),
        (416, "InvalidRange", False),
        (501, "NotImplemented", False),
    ],
)
def test_which_answers_pass(status: int, code: str, passing: bool) -> None:
    assert faults.answer_of(_answer(status, code)) == (status, code)
    assert faults.is_passing(_answer(status, code)) == passing


@pytest.mark.parametrize("asked", ["7", "date"])
def test_a_server_may_ask_for_a_longer_wait(rushing: Rushing, asked: str) -> None:
    if asked == "date":
        asked = formatdate(time.time() + 7.5, usegmt=True)
    failures = [_answer(503, "SlowDown", {"retry-after": asked}), _answer(503, "SlowDown", {"Retry-After": "3"})]

    def act() -> str:
        if failures:
            raise failures.pop(0)
        return "done"

    assert faults.retrying(act) == "done"
    assert 6 < rushing.waits[0] <= 8
    assert rushing.waits[1] == 3


def test_a_wait_that_is_longer_than_the_patience_is_not_begun(rushing: Rushing) -> None:
    calls = []

    def act() -> None:
        calls.append(1)
        raise _answer(503, "SlowDown", {"retry-after": "3600"})

    with pytest.raises(OSError, match="SlowDown"):
        faults.retrying(act)
    assert (len(calls), rushing.waits) == (1, [])


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (403, "RequestTimeTooSkewed", "the clock of this machine"),
        (400, "ExpiredToken", "credentials have expired .*renew"),
        (403, "InvalidAccessKeyId", "access denied .*check the credentials"),
        (404, "NoSuchUpload", "ended by someone else .*run again"),
        (404, "NoSuchBucket", "bucket or directory does not exist"),
    ],
)
def test_the_way_out_is_said(status: int, code: str, hint: str) -> None:
    with pytest.raises(StorageError, match=hint) as caught, faults.translated("s3://b/k", "write"):
        raise _answer(status, code)
    assert f"{code} was said" in str(caught.value)


def test_no_credentials() -> None:
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID"), faults.translated("s3://b/k", "read"):
        raise botocore.exceptions.NoCredentialsError
