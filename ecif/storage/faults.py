"""What storage libraries raise, turned into our errors; and the one layer of retries.

Retries happen here and nowhere else: those of botocore and s3fs are switched off (see `remote.filesystem`),
because nested they make 25 requests in 44 seconds out of one 503. Waits grow exponentially with full jitter, so
that many workers do not come back at the same moment, and end with a budget of time: what lasts longer than a
minute is for the orchestrator to retry. A wrong endpoint is therefore told late, and a restarted server is not told.
"""

from __future__ import annotations

import asyncio
import errno
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn, TypeVar

from ecif.errors import EcifError, InputError, MissingFileError, StorageError
from ecif.storage.secrets import redact

T = TypeVar("T")

# Seconds of trying, over all attempts of a request.
PATIENCE = 60.0
# The wait before the second attempt is drawn below the first of these; the bound doubles up to the other.
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0

_ABSENT = (FileNotFoundError, NotADirectoryError)
_FINAL = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
_PASSING = frozenset({errno.EIO, errno.EBUSY, errno.EAGAIN, getattr(errno, "EREMOTEIO", errno.EIO)})

# Of aiohttp and botocore, by name: they share no base, some are no OSError, and importing them takes a second.
_PASSING_NAMES = frozenset(
    {
        "ClientConnectionError",
        "ClientPayloadError",
        "ConnectionError",
        "FlexibleChecksumError",
        "HTTPClientError",
        "IncompleteReadError",
        "ResponseParserError",
        "ResponseStreamingError",
    }
)
# Codes of S3 that pass although their status says that the request was wrong: throttling, and cut bodies.
_PASSING_CODES = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestTimeout",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "XAmzContentSHA256Mismatch",
    }
)
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})


class ShortBody(Exception):
    """A body that ended before its length; asking again may bring the rest."""


class Clock:
    """Time as the retries see it; tests put one in its place that does not really wait."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


clock = Clock()


class Attempts:
    """The attempts of one request.

    Args:
        patience: seconds that they may take in all.
    """

    def __init__(self, patience: float) -> None:
        self._start = clock.now()
        self._patience, self._bound, self._failed = patience, FIRST_WAIT, 0

    def wait(self, error: Exception) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            Exception: `error` itself, when it will not pass or the time is up.
        """
        if not is_passing(error):
            raise error
        self._failed += 1
        wait = max(random.uniform(0, self._bound), _retry_after(error))
        self._bound = min(2 * self._bound, LONGEST_WAIT)
        gone = clock.now() - self._start
        if gone + wait > self._patience:
            error.add_note(f"given up after {self._failed} attempts in {gone:.0f} s")
            raise error
        return wait


def retrying(action: Callable[[], T], patience: float = PATIENCE) -> T:
    """Call `action`, again after a wait when it failed for a reason that may pass."""
    attempts = Attempts(patience)
    while True:
        try:
            return action()
        except Exception as error:
            wait = attempts.wait(error)
        clock.sleep(wait)


def answer_of(error: BaseException) -> tuple[int, str]:
    """HTTP status and S3 error code of the answer that `error` stands for; (0, "") when there was none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(response := getattr(cause, "response", None), dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return int(status), str(response.get("Error", {}).get("Code", ""))
        if isinstance(status := getattr(cause, "status", None), int):  # of aiohttp's ClientResponseError
            return status, ""
        cause = cause.__cause__
    return 0, ""


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed later: network, throttling, server errors, short bodies."""
    status, code = answer_of(error)
    if status or code:
        return code in _PASSING_CODES or status in (408, 429) or (status >= 500 and status != 501)
    if isinstance(error, _FINAL) or "CERTIFICATE_VERIFY_FAILED" in str(error):
        return False
    if isinstance(error, ShortBody | TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno in _PASSING:
        return True
    return not _PASSING_NAMES.isdisjoint(kind.__name__ for kind in type(error).__mro__)


def _retry_after(error: BaseException) -> float:
    """Seconds that the server asks to wait; 0 when it does not."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        headers: Any = response.get("ResponseMetadata", {}).get("HTTPHeaders") if isinstance(response, dict) else None
        headers = headers or getattr(cause, "headers", None)
        if isinstance(headers, Mapping):
            asked = str(next((value for name, value in headers.items() if str(name).lower() == "retry-after"), ""))
            if asked.isdigit():
                return float(asked)
            try:
                return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
            except ValueError:
                return 0.0
        cause = cause.__cause__
    return 0.0


@contextmanager
def translated(url: str, doing: str, options: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Turn whatever is raised inside into one of our errors that names `url` and holds no secret.

    Args:
        doing: the verb of the message: `read`, `list`, `write`, `delete`.
        options: storage options, whose secret values are hidden.
    """
    try:
        yield
    except Exception as error:
        raise_translated(error, url, doing, options)


def raise_translated(error: Exception, url: str, doing: str, options: Mapping[str, Any] | None = None) -> NoReturn:
    """Raise what `translated` does; where a context manager would be in the way.

    Raises:
        MissingFileError, StorageError: always, unless `error` is one of ours, which is raised as it is.
    """
    if isinstance(error, EcifError):
        if redact(str(error), options) == str(error):
            raise error
        if isinstance(error, InputError):
            problem, place = redact(error.problem, options), redact(error.url, options)
            raise type(error)(problem, url=place, member=error.member, offset=error.offset) from None
        raise type(error)(redact(str(error), options)) from None
    place = redact(url, options)
    if isinstance(error, _ABSENT) and doing != "write":
        raise MissingFileError("does not exist", url=place) from error
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    raise StorageError(redact(f"cannot {doing}: {_explain(error, doing)}{notes}", options), url=place) from error


def _explain(error: Exception, doing: str) -> str:
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or "no details given"
    status, code = answer_of(error)
    if code == "RequestTimeTooSkewed":
        return f"the clock of this machine differs from that of the server ({text}); set it right and run again"
    if code in _EXPIRED:
        return f"the credentials have expired ({text}); renew them and run again, what is finished is kept"
    if code == "NoSuchUpload":
        return f"the upload was ended by someone else ({text}); run again"
    if isinstance(error, PermissionError) or status in (401, 403):
        return f"access denied ({text}); check the credentials and the permissions of this path"
    if type(error).__name__ == "NoCredentialsError":
        return f"{text}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, or --storage-options"
    if isinstance(error, ShortBody):
        return f"{text}; the file was cut or is being changed"
    if isinstance(error, _ABSENT):  # only when writing
        return f"the bucket or directory does not exist and cannot be made ({text}); check --out"
    if isinstance(error, FileExistsError | IsADirectoryError):
        return f"something else stands in the way ({text}); check --out"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{text}; make room and run again, what is finished is kept"
    if isinstance(error, ImportError):
        return f"{text}; install the package that serves this kind of storage"
    hint = "; check --out" if doing == "write" and isinstance(error, OSError) and error.errno == errno.EROFS else ""
    return f"{type(error).__name__}: {text}{hint}"
